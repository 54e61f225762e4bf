"""Tiny checkpoints whose linear layers have random codes of 4 bits, and directories that keep these."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from splitlearn.backends.cpu.linear.int4 import Int4Weight
from splitlearn.checkpoints.convert import prepare
from support.packed_codes import RandomCodes
from support.quantized_checkpoints import State, save_quantized

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}


def compressed(**weights: Any) -> dict[str, Any]:
    scheme = {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "group", "group_size": 32, **weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
    }


class Packed:
    """Replaces weights by random codes, and remembers them by the names of modules."""

    def __init__(
        self,
        pack_codes: Callable[[RandomCodes], State],
        group: int = 32,
        *,
        symmetric: bool = False,
        act_order: bool = False,
    ) -> None:
        self._pack, self._group, self._symmetric, self._act_order = pack_codes, group, symmetric, act_order
        self.codes: dict[str, RandomCodes] = {}

    def __call__(self, module: str, weight: torch.Tensor) -> State:
        outputs, inputs = weight.shape
        order = torch.randperm(inputs) // self._group if self._act_order else None
        codes = self.codes[module] = RandomCodes(outputs, inputs, self._group, 4, order)
        if self._symmetric:
            codes.make_symmetric()
        return self._pack(codes) | ({} if order is None else {"g_idx": order.int()})

    def expected(self, module: str) -> Int4Weight:
        """What is to come of the codes."""
        codes = self.codes[module]
        zeros_NG = None if self._symmetric else codes.zeros_GO.T.half()
        return Int4Weight(codes.codes_IO.T.to(torch.uint8), codes.scales_GO.T, zeros_NG, self._group)


# by title: what the config declares, and what quantises
FORMATS: dict[str, tuple[dict[str, Any], Callable[[], Packed]]] = {
    "gptq": (GPTQ, lambda: Packed(RandomCodes.gptq)),
    "gptq symmetric": (GPTQ, lambda: Packed(RandomCodes.gptq, symmetric=True)),
    "gptq v2": ({**GPTQ, "checkpoint_format": "gptq_v2"}, lambda: Packed(lambda codes: codes.gptq(2))),
    "gptq, order told": (
        GPTQ,
        lambda: Packed(lambda codes: codes.gptq() | {"g_idx": torch.arange(len(codes.codes_IO)).int() // 32}),
    ),
    "awq gemm": ({**AWQ, "version": "gemm"}, lambda: Packed(RandomCodes.awq_gemm)),
    "awq gemv": ({**AWQ, "version": "gemv"}, lambda: Packed(lambda codes: codes.awq_gemv(4))),
    "compressed-tensors": (
        compressed(),
        lambda: Packed(lambda codes: codes.compressed(symmetric=True), symmetric=True),
    ),
    "compressed-tensors with zeros": (
        compressed(symmetric=False),
        lambda: Packed(lambda codes: codes.compressed(symmetric=False)),
    ),
}


def convert(source: Path, out: Path, dtype: str = "bfloat16") -> Path:
    """`out`, a directory that keeps what it can."""
    prepare(str(source), dtype=dtype, keep_int4=True).write(out)
    return out


def gptq(folder: Path, **options: Any) -> Path:
    """A checkpoint of GPTQ."""
    return save_quantized(folder, GPTQ, Packed(RandomCodes.gptq, **options))


def save_int4_sepweight(folder: Path) -> tuple[Path, State]:
    """A directory in bf16, and the weights that its codes stand for, by their names."""
    packed = Packed(RandomCodes.gptq)
    checkpoint = save_quantized(folder / "checkpoint", GPTQ, packed)
    weights = {f"{module}.weight": codes.weight_OI for module, codes in packed.codes.items()}
    return convert(checkpoint, folder / "tiny"), weights
