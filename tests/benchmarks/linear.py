"""`make bench`: linear layers with stock, packed and int8 weights, as decoding and prompts use them.

Weights take turns from more memory than the caches hold, as they do in a model.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from statistics import quantiles

import torch
from torch import nn

from splitlearn.backends.cpu.packing import pack
from tests.benchmarks.contenders import RESULTS

THREADS = 2
ROWS = (1, 2, 4, 8, 16, 32, 64, 256, 512)
ROWS_OF_HEADS = (1, 2, 4, 8, 16)
ROWS_OF_SIBLINGS = (1, 2, 4, 8, 16, 256)
MOST_ROWS_BOUND_BY_MEMORY = 8
COLD_BYTES = 200 * 2**20
FEWEST_COPIES = 2
MOST_COPIES = 48
FLOPS_PER_ROUND = 40e9
ROUNDS = 7
SHAPES = {
    "Qwen2-0.5B": ((896, 896), (896, 128), (896, 4864), (4864, 896)),
    "Llama-1.1B": ((2048, 2048), (2048, 256), (2048, 5632), (5632, 2048)),
}
HEADS = {"Qwen2-0.5B": (896, 151936), "Llama-1.1B": (2048, 32000)}
SIBLINGS = {
    "Qwen2-0.5B q, k, v": (896, (896, 128, 128)),
    "Llama-1.1B q, k, v": (2048, (2048, 256, 256)),
}
TOGETHER = ("q_proj", "k_proj", "v_proj")
ALONE = ("queries", "keys", "values")
"""Names that `pack` does not know."""

Layers = Sequence[nn.Module]


class Siblings(nn.Module):
    """Linear layers that take the same rows."""

    def __init__(self, n_inputs: int, widths: Sequence[int], names: Sequence[str]) -> None:
        super().__init__()
        self.names = names
        for name, width in zip(names, widths, strict=True):
            self.add_module(name, random_linear(n_inputs, width))

    def forward(self, rows_RK: torch.Tensor) -> None:
        for name in self.names:
            self._modules[name](rows_RK)


def random_linear(n_inputs: int, n_outputs: int) -> nn.Linear:
    linear = nn.Linear(n_inputs, n_outputs, bias=False, device="meta", dtype=torch.bfloat16)
    weight_NK = torch.empty(n_outputs, n_inputs, dtype=torch.bfloat16).normal_()
    linear.weight = nn.Parameter(weight_NK, requires_grad=False)
    return linear


def copies(n_bytes: int, make: Callable[[], nn.Module], weights: str | None) -> Layers:
    """Enough equal layers that the caches do not hold them."""
    count = min(MOST_COPIES, max(FEWEST_COPIES, -(-COLD_BYTES // n_bytes)))
    model = nn.Sequential(*(make() for _ in range(count)))
    if weights is not None:
        pack(model, weights)
    return list(model)


def undisturbed(times: Sequence[float]) -> float:
    """The tenth percentile. Two threads that wait for each other lose a whole time slice whenever another process takes
    one of their cores, so that medians tell about the other processes."""
    return quantiles(times, n=10)[0]


def seconds(contenders: Mapping[str, Layers], rows_RK: torch.Tensor, flops: float) -> dict[str, float]:
    """Seconds per call of each contender, in turns: what a tenth of the calls stay below."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    most = max(1, int(FLOPS_PER_ROUND / flops))
    for round_ in range(ROUNDS + 1):
        for name, layers in contenders.items():
            for layer in layers[:most]:
                began = time.perf_counter()
                layer(rows_RK)
                if round_:
                    times[name].append(time.perf_counter() - began)
    return {name: undisturbed(found) for name, found in times.items()}


def read_speed() -> float:
    """Bytes per second of a dot product over memory that no cache holds."""
    numbers = torch.ones(64 * 2**20)
    times = []
    for _ in range(3 * ROUNDS):
        began = time.perf_counter()
        torch.dot(numbers, numbers)
        times.append(time.perf_counter() - began)
    return numbers.nbytes / undisturbed(times)


def table(shapes: Mapping[str, Sequence[tuple[int, int]]], n_rows: Sequence[int]) -> str:
    lines = [
        "| shape | rows | stock, us | packed, us | int8, us | packed / stock | int8 / stock | packed, GB/s |\n",
        "|---|---|---|---|---|---|---|---|\n",
    ]
    for model, pairs in shapes.items():
        for n_inputs, n_outputs in pairs:
            lines += shape_lines(model, n_inputs, n_outputs, n_rows)
    return "".join(lines)


def shape_lines(model: str, n_inputs: int, n_outputs: int, n_rows: Sequence[int]) -> list[str]:
    n_bytes = 2 * n_inputs * n_outputs
    contenders = {
        name: copies(n_bytes, partial(random_linear, n_inputs, n_outputs), weights)
        for name, weights in (("stock", None), ("native", "none"), ("int8", "int8"))
    }
    lines = []
    for count in n_rows:
        rows_RK = torch.randn(count, n_inputs).bfloat16()
        found = seconds(contenders, rows_RK, count * n_bytes)
        stock, native, int8 = (1e6 * found[name] for name in ("stock", "native", "int8"))
        read = f"{n_bytes / found['native'] / 1e9:.0f}" if count <= MOST_ROWS_BOUND_BY_MEMORY else ""
        lines.append(
            f"| {model} {n_inputs}x{n_outputs} | {count} | {stock:.0f} | {native:.0f} | {int8:.0f} "
            f"| **{stock / native:.2f}x** | {stock / int8:.2f}x | {read} |\n"
        )
        print(lines[-1], end="", flush=True)
    return lines


def sibling_table() -> str:
    lines = ["| siblings | rows | each alone, us | fused, us | gain |\n", "|---|---|---|---|---|\n"]
    for label, (n_inputs, widths) in SIBLINGS.items():
        n_bytes = 2 * n_inputs * sum(widths)
        contenders = {
            "apart": copies(n_bytes, partial(Siblings, n_inputs, widths, ALONE), "none"),
            "fused": copies(n_bytes, partial(Siblings, n_inputs, widths, TOGETHER), "none"),
        }
        for count in ROWS_OF_SIBLINGS:
            found = seconds(contenders, torch.randn(count, n_inputs).bfloat16(), count * n_bytes)
            lines.append(
                f"| {label} | {count} | {1e6 * found['apart']:.0f} | {1e6 * found['fused']:.0f} "
                f"| {found['apart'] / found['fused']:.2f}x |\n"
            )
            print(lines[-1], end="", flush=True)
    return "".join(lines)


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(THREADS)
    speed = read_speed()
    heads = {model: [shape] for model, shape in HEADS.items()}
    text = (
        f"# Linear layers, {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"`make bench`: {os.cpu_count()} cores, {THREADS} threads, bf16 rows; contenders in turns, weights in turns "
        f"from {COLD_BYTES // 2**20} MiB or more. Times are what a tenth of the calls stay below, as the cores are "
        f"shared with other processes. A plain read of memory (a dot product) runs at {speed / 1e9:.1f} GB/s, and the "
        "last column is what the packed weights were read at.\n\n"
        f"{table(SHAPES, ROWS)}\nHeads, which run on the last rows only:\n\n"
        f"{table(heads, ROWS_OF_HEADS)}\nQueries, keys and values, packed one by one and as one weight:\n\n"
        f"{sibling_table()}"
    )
    (RESULTS / f"linear_{datetime.now(UTC):%Y-%m-%d}.md").write_text(text)


if __name__ == "__main__":
    main()
