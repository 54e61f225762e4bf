"""The trainer against a plain PyTorch loop of the same model: tokens/s, in turns.

    python -m tests.benchmarks.training [--quick] [--rounds N] [--steps N] [--batch_size N] [--threads N]

The model is Vanilla in the shape that nanoGPT publishes for characters: 6 layers, 6 heads, width 384, context 256,
65 characters, without biases and with dropout 0.2. Both sides train fresh copies on the same random ids in fp32 with
fused AdamW and clipped gradients, and both are timed from the call to its end, optimizer included.

Shapes: B rows, T positions, V vocabulary.
"""

import argparse
import copy
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from torch import nn
from torch.nn import functional

from cleangpt.config import GPTConfig
from cleangpt.data import Batch, LazyBatches
from cleangpt.model import get_model
from cleangpt.trainers import Training, TrainingSettings, WarmupCosine, train
from tests.benchmarks.comparison import Comparison, Goal, comparisons
from tests.benchmarks.contenders import RESULTS

CONFIG = GPTConfig("Vanilla", block_size=256, vocab_size=65, n_layer=6, n_head=6, n_embd=384, dropout=0.2, bias=False)
GOAL = Goal(0.95)
PEAK = 1e-3


@dataclass(frozen=True)
class Shape:
    rounds: int = 8
    steps: int = 6
    batch_size: int = 8
    threads: int = os.cpu_count() or 2

    @property
    def tokens(self) -> int:
        """Predicted ids of a round."""
        return self.steps * self.batch_size * CONFIG.block_size


@dataclass(frozen=True)
class RandomIds:
    """Rows of one id more than the context: every position predicts."""

    shape: Shape

    def batches(self, epoch: int) -> Sequence[Batch]:
        return LazyBatches(range(self.shape.steps), lambda index: Batch(self.ids(index)))

    def ids(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        size = (self.shape.batch_size, CONFIG.block_size + 1)
        return torch.randint(CONFIG.vocab_size, size, generator=generator)


def by_hand(model: nn.Module, data: RandomIds) -> float:
    """The last loss of a loop as one writes it down without a library."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    model.train()
    value = 0.0
    for step in range(data.shape.steps):
        ids_BT = data.ids(step)
        logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()
    return value


def by_trainer(model: nn.Module, data: RandomIds) -> float:
    """The same through the trainer."""
    settings = TrainingSettings(max_steps=data.shape.steps, schedule=WarmupCosine(PEAK, 0), weight_decay=0.1)
    return train(Training(model, data, settings)).losses[-1]


def measure(shape: Shape) -> Comparison:
    data = RandomIds(shape)
    torch.manual_seed(0)
    fresh = get_model(CONFIG.model_type, config=CONFIG)
    speeds: dict[str, list[float]] = {"hand": [], "trainer": []}
    sides = (("hand", by_hand), ("trainer", by_trainer))
    for number in range(shape.rounds + 1):
        # who goes first changes with every round, in case the second has it easier
        for name, loop in sides if number % 2 else reversed(sides):
            model = copy.deepcopy(fresh)
            began = time.perf_counter()
            loss = loop(model, data)
            seconds = time.perf_counter() - began
            # the first round warms up
            if number:
                speeds[name].append(shape.tokens / seconds)
            print(f"round {number}: {name} {shape.tokens / seconds:.0f} tokens/s, loss {loss:.3f}", flush=True)
    return Comparison("training, tokens/s", "tokens/s", speeds["hand"], speeds["trainer"], GOAL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="see that it works; writes no result")
    for name in ("rounds", "steps", "batch_size", "threads"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Shape, name))
    options = parser.parse_args()
    shape = Shape(options.rounds, options.steps, options.batch_size, options.threads)
    if options.quick:
        shape = Shape(rounds=3, steps=2, batch_size=2, threads=options.threads)
    torch.set_num_threads(shape.threads)
    text = (
        f"# Training, {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"`python -m tests.benchmarks.training`: nanoGPT's character shape (6 layers, 6 heads, width 384, "
        f"context 256), fp32, batches of {shape.batch_size}, {shape.steps} steps a round, {shape.threads} threads on "
        f"{os.cpu_count()} cores; a plain PyTorch loop and the trainer in turns. The ratio is the median of the "
        f"rounds' ratios.\n\n{comparisons([measure(shape)])}"
    )
    print(text)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"training_{datetime.now(UTC):%Y-%m-%d}.md").write_text(text)


if __name__ == "__main__":
    main()
