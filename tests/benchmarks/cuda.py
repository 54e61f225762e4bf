"""`make bench`, on a CUDA device: steps of the whole model, against Hugging Face's static cache and `torch.compile`.

Both sides run the same weights in one process, in turns. The row that says most comes first, and each is written when
it is there, so that `make gpu-bench` has some when its time is over. Shapes: S sessions, T rows.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, StaticCache

from splitlearn.checkpoints.load import load_part
from splitlearn.hf.cache import named_cache
from splitlearn.model.part import Part
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.interface import SequenceInput
from splitlearn.runner.select import runner_for
from tests.benchmarks.comparison import Comparison, Goal, comparisons
from tests.benchmarks.contenders import LLAMA, QWEN, RESULTS, ModelShape, make_weights

HISTORY = 64
SESSIONS = (16, 1)
PROMPTS = (512, 2048)
# as an engine's step takes them
STEP_ROWS = 512
GOAL = Goal(1.0, at_most=True)


@dataclass(frozen=True)
class Sizes:
    """How much is run, and where."""

    rounds: int
    steps: int
    device: torch.device

    def milliseconds(self, step: Callable[[], object], repeats: int) -> float:
        """The median of so many steps, from asking to the answer on the host."""
        times = []
        for _ in range(repeats):
            self.wait()
            began = time.perf_counter()
            step()
            self.wait()
            times.append(1000 * (time.perf_counter() - began))
        return median(times)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def some_ids(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 30000, (count,), generator=torch.Generator().manual_seed(seed))


class Stock:
    """transformers as its documentation runs it fast: a static cache, and decoding compiled into CUDA graphs."""

    def __init__(self, checkpoint: Path, context: int, sizes: Sizes) -> None:
        self._model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
        self._model.to(sizes.device).eval()
        self._decode: Any = self._model
        if sizes.device.type == "cuda":
            self._decode = torch.compile(self._model, mode="reduce-overhead", fullgraph=True)
        self._context, self._sizes = context, sizes

    @torch.inference_mode()
    def decode(self, n_sessions: int) -> float:
        """Milliseconds of one token for each of so many texts."""
        cache = self._cache()
        ids_ST = torch.stack([some_ids(HISTORY, seed) for seed in range(n_sessions)]).to(self._sizes.device)
        self._forward(self._model, ids_ST, 0, cache)
        position = HISTORY

        def step() -> None:
            nonlocal position
            # the host chooses the next token from what comes back, and brings it
            self._forward(self._decode, ids_ST[:, :1].cpu().to(self._sizes.device), position, cache).cpu()
            position += 1

        return self._sizes.milliseconds(step, self._sizes.steps)

    @torch.inference_mode()
    def prefill(self, n_rows: int) -> float:
        ids_1T, cache = some_ids(n_rows)[None], self._cache()

        def step() -> None:
            cache.reset()
            self._forward(self._model, ids_1T.to(self._sizes.device), 0, cache).cpu()

        return self._sizes.milliseconds(step, 3)

    def _cache(self) -> StaticCache:
        return StaticCache(config=self._model.config, max_cache_len=self._context)

    def _forward(self, model: Any, ids_ST: torch.Tensor, position: int, cache: StaticCache) -> torch.Tensor:
        positions_ST = torch.arange(position, position + ids_ST.shape[1], device=ids_ST.device)[None]
        output = model(
            ids_ST,
            position_ids=positions_ST.expand_as(ids_ST),
            use_cache=True,
            logits_to_keep=1,
            **named_cache(cache),
        )
        return torch.as_tensor(output.logits[:, -1]).clone()


class Ours:
    """The whole model as one part, run as an engine runs it."""

    def __init__(self, weights: Path, sizes: Sizes, runner: Callable[[Part], Any] = runner_for) -> None:
        self._runner: BatchedRunner = runner(load_part(weights, "f", device=str(sizes.device), dtype="bfloat16"))
        self._sizes = sizes

    def decode(self, n_sessions: int) -> float:
        kvs = [self._runner.new_kv(None) for _ in range(n_sessions)]
        for seed, kv in enumerate(kvs):
            self._runner.run([SequenceInput(kv, 0, some_ids(HISTORY, seed), False)])
        position = HISTORY

        def step() -> None:
            nonlocal position
            for logits_V in self._runner.run([SequenceInput(kv, position, some_ids(1)) for kv in kvs]):
                logits_V.cpu()
            position += 1

        step()  # captures, where this number of sessions is new
        found = self._sizes.milliseconds(step, self._sizes.steps)
        for kv in kvs:
            self._runner.release(kv)
        return found

    def prefill(self, n_rows: int) -> float:
        kv, ids_T = self._runner.new_kv(None), some_ids(n_rows)

        def step() -> None:
            for start in range(0, n_rows, STEP_ROWS):
                last = start + STEP_ROWS >= n_rows
                (logits_V,) = self._runner.run([SequenceInput(kv, start, ids_T[start : start + STEP_ROWS], last)])
                logits_V.cpu()

        found = self._sizes.milliseconds(step, 3)
        self._runner.release(kv)
        return found


def compared(shape: ModelShape, stock: Stock, ours: Ours, sizes: Sizes) -> Iterator[Comparison]:
    """Rows of the table, each when it is measured; one round before those that count warms up, and compiles."""
    cases: Mapping[str, tuple[Callable[[int], float], Callable[[int], float], int]] = {
        **{f"{n} session{'s' * (n > 1)}, a token each": (stock.decode, ours.decode, n) for n in SESSIONS},
        **{f"prompt of {n} rows": (stock.prefill, ours.prefill, n) for n in PROMPTS if n < shape.context},
    }
    for name, (by_stock, by_us, size) in cases.items():
        times = [(by_stock(size), by_us(size)) for _ in range(1 + sizes.rounds)][1:]
        yield Comparison(f"{shape.label}: {name}", "ms", [a for a, _ in times], [b for _, b in times], GOAL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS / f"cuda_{datetime.now(UTC):%Y-%m-%d}.md")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no CUDA device here, so nothing was measured on one.")
        return
    sizes = Sizes(options.rounds, options.steps, torch.device("cuda"))
    write_as_they_come(options.out, torch.cuda.get_device_name(), sizes, _rows(sizes))


def _rows(sizes: Sizes) -> Iterator[Comparison]:
    for shape in (QWEN, LLAMA):
        checkpoint, weights = make_weights(shape)
        context = min(shape.context, max(PROMPTS) + HISTORY)
        yield from compared(shape, Stock(checkpoint, context, sizes), Ours(weights, sizes), sizes)


def write_as_they_come(file: Path, device: str, sizes: Sizes, rows: Iterable[Comparison]) -> None:
    """A page whose table grows by a line with every row."""
    head = (
        f"# A CUDA device, {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"`python -m tests.benchmarks.cuda` on {device}, torch {torch.__version__}: random weights, bf16, the whole "
        f"model; against transformers with a static cache, decoding compiled (`reduce-overhead`), {sizes.rounds} "
        f"rounds in turns; medians, the ratio is ours / against, the median of the rounds' ratios.\n\n"
    )
    print(head, flush=True)
    found: list[Comparison] = []
    for row in rows:
        found.append(row)
        print(row.line, flush=True)
        file.write_text(head + comparisons(found))


if __name__ == "__main__":
    main()
