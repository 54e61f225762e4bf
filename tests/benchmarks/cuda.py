"""`make bench`, on a CUDA device: steps against Hugging Face's static cache and `torch.compile`, and against the roof.

Both sides run the same weights in one process, in turns. A trunk's steps are compared with what the device reads from
its memory and multiplies at most, as measured beside them. The row that says most comes first, and each is written
when it is there, so that `make gpu-bench` has some when its time is over. Shapes: S sessions, T rows, D hidden size.
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
from splitlearn.model.part import Part, Wanted
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.interface import SequenceInput
from splitlearn.runner.select import runner_for
from tests.benchmarks.comparison import Comparison, Goal, Measure, comparisons, measures
from tests.benchmarks.contenders import EIGHT_B, LLAMA, QWEN, RESULTS, ModelShape, make_weights

HISTORY = 64
# how many sessions, and our milliseconds as a share of the other side's
SESSIONS = {16: Goal(1 / 1.5, at_most=True), 1: Goal(1 / 1.2, at_most=True)}
PROMPTS = (512, 2048)
# as an engine's step takes them
STEP_ROWS = 512
GOAL = Goal(1.0, at_most=True)
# how many sessions of a trunk, and the least share of the roof; of one session it is the memory's
SHARES = {1: Goal(0.7), 64: Goal(0.7)}
# of what is copied, and of the sides of the matrices that are multiplied, to measure the roof
COPIED_BYTES = 2**30
SIDE = 8192

Row = Comparison | Measure


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
        ids_ST = torch.stack([self._ids(HISTORY, seed) for seed in range(n_sessions)]).to(self._sizes.device)
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
        ids_1T, cache = self._ids(n_rows)[None], self._cache()

        def step() -> None:
            cache.reset()
            self._forward(self._model, ids_1T.to(self._sizes.device), 0, cache).cpu()

        return self._sizes.milliseconds(step, 3)

    def _ids(self, count: int, seed: int = 0) -> torch.Tensor:
        return some_ids(count, seed) % self._model.config.vocab_size

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
    """Some layers as one part, the whole model unless it is said, run as an engine runs them."""

    def __init__(
        self, weights: Path, sizes: Sizes, layers: str = "f", runner: Callable[[Part], Any] = runner_for
    ) -> None:
        part = load_part(weights, layers, device=str(sizes.device), dtype="bfloat16")
        self.n_weights = sum(each.numel() for each in part.model.parameters())
        self._runner: BatchedRunner = runner(part)
        self._sizes = sizes

    def _rows(self, count: int, seed: int = 0) -> torch.Tensor:
        """Token ids [T], or hidden states [T, D] where the part begins behind the embeddings."""
        part = self._runner.part
        if part.spec.begin:
            return some_ids(count, seed) % part.config.vocab_size
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, part.hidden_size, generator=generator).to(part.dtype)

    def decode(self, n_sessions: int) -> float:
        kvs = [self._runner.new_kv(None) for _ in range(n_sessions)]
        for seed, kv in enumerate(kvs):
            self._runner.run([SequenceInput(kv, 0, self._rows(HISTORY, seed), "none")])
        position, row = HISTORY, self._rows(1)

        def step() -> None:
            nonlocal position
            for output in self._runner.run([SequenceInput(kv, position, row) for kv in kvs]):
                output.cpu()
            position += 1

        step()  # captures, where this number of sessions is new
        found = self._sizes.milliseconds(step, self._sizes.steps)
        for kv in kvs:
            self._runner.release(kv)
        return found

    def prefill(self, n_rows: int) -> float:
        kv, rows = self._runner.new_kv(None), self._rows(n_rows)

        def step() -> None:
            for start in range(0, n_rows, STEP_ROWS):
                wanted: Wanted = "last" if start + STEP_ROWS >= n_rows else "none"
                (output,) = self._runner.run([SequenceInput(kv, start, rows[start : start + STEP_ROWS], wanted)])
                output.cpu()

        found = self._sizes.milliseconds(step, 3)
        self._runner.release(kv)
        return found


@dataclass(frozen=True)
class Roof:
    """What the device does at most, each a second: bytes that it reads, and operations of bf16 products."""

    n_bytes: float
    operations: float

    @classmethod
    def measured(cls, sizes: Sizes) -> "Roof":
        """By a copy, which reads and writes, and by a product of square matrices."""
        from_there = torch.ones(COPIED_BYTES // 2, dtype=torch.bfloat16, device=sizes.device)
        to_here = torch.empty_like(from_there)
        copying = sizes.milliseconds(lambda: to_here.copy_(from_there), 9)
        square = torch.ones(SIDE, SIDE, dtype=torch.bfloat16, device=sizes.device)
        multiplying = sizes.milliseconds(lambda: square @ square, 9)
        return cls(1000 * 2 * COPIED_BYTES / copying, 1000 * 2 * SIDE**3 / multiplying)

    def milliseconds(self, n_weights: int, n_rows: int) -> float:
        """The least time of a step that reads each bf16 weight once, and multiplies so many rows by it."""
        return 1000 * max(2 * n_weights / self.n_bytes, 2 * n_weights * n_rows / self.operations)


def compared(shape: ModelShape, stock: Stock, ours: Ours, sizes: Sizes) -> Iterator[Comparison]:
    """Rows of the table, each when it is measured; one round before those that count warms up, and compiles."""
    cases: Mapping[str, tuple[Callable[[int], float], Callable[[int], float], int, Goal]] = {
        **{
            f"{n} session{'s' * (n > 1)}, a token each": (stock.decode, ours.decode, n, goal)
            for n, goal in SESSIONS.items()
        },
        **{f"prompt of {n} rows": (stock.prefill, ours.prefill, n, GOAL) for n in PROMPTS if n < shape.context},
    }
    for name, (by_stock, by_us, size, goal) in cases.items():
        times = [(by_stock(size), by_us(size)) for _ in range(1 + sizes.rounds)][1:]
        yield Comparison(f"{shape.label}: {name}", "ms", [a for a, _ in times], [b for _, b in times], goal)


def shares(shape: ModelShape, trunk: Ours, sizes: Sizes) -> Iterator[Measure]:
    """What the steps of a trunk reach of the roof, which is measured anew beside each."""
    for n, goal in SHARES.items():
        found, times = [], []
        for number in range(1 + sizes.rounds):
            roof = Roof.measured(sizes)
            milliseconds = trunk.decode(n)
            if number:
                found.append(roof.milliseconds(trunk.n_weights, n) / milliseconds)
                times.append(milliseconds)
        what = f"{shape.label}: trunk of layers {shape.layers}, {n} session{'s' * (n > 1)}, share of the roof"
        detail = (
            f" ({median(times):.2f} ms; the roof: {roof.n_bytes / 1e9:.0f} GB/s, {roof.operations / 1e12:.0f} TFLOP/s)"
        )
        yield Measure(what, "", found, goal, detail)


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


def _rows(sizes: Sizes) -> Iterator[Row]:
    yield from _against_stock(QWEN, sizes)
    for shape in (EIGHT_B, QWEN):
        yield from shares(shape, Ours(make_weights(shape)[1], sizes, shape.layers), sizes)
    yield from _against_stock(LLAMA, sizes)
    yield from shares(LLAMA, Ours(make_weights(LLAMA)[1], sizes, LLAMA.layers), sizes)


def _against_stock(shape: ModelShape, sizes: Sizes) -> Iterator[Comparison]:
    checkpoint, weights = make_weights(shape)
    context = min(shape.context, max(PROMPTS) + HISTORY)
    yield from compared(shape, Stock(checkpoint, context, sizes), Ours(weights, sizes), sizes)


def write_as_they_come(file: Path, device: str, sizes: Sizes, rows: Iterable[Row]) -> None:
    """A page whose tables grow by a line with every row."""
    head = (
        f"# A CUDA device, {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"`python -m tests.benchmarks.cuda` on {device}, torch {torch.__version__}: random weights, bf16, the whole "
        f"model; against transformers with a static cache, decoding compiled (`reduce-overhead`), {sizes.rounds} "
        f"rounds in turns; medians, the ratio is ours / against, the median of the rounds' ratios.\n\n"
        f"A trunk's share is the least time of a step over its time. The least time is that of reading each weight "
        f"once, or of multiplying by it, whichever is longer, at the speed of a copy and of a product of matrices.\n\n"
    )
    print(head, flush=True)
    ratios: list[Comparison] = []
    reached: list[Measure] = []
    for row in rows:
        if isinstance(row, Comparison):
            ratios.append(row)
        else:
            reached.append(row)
        print(row.line, flush=True)
        file.write_text(head + "\n".join(filter(None, (comparisons(ratios), measures(reached)))))


if __name__ == "__main__":
    main()
