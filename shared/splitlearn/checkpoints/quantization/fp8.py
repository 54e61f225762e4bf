"""FP8 as DeepSeek and Qwen store it: numbers of 8 bits with a scale for each block of 128 x 128, or for all.

Source: https://huggingface.co/deepseek-ai/DeepSeek-V3 (README_WEIGHTS.md), and transformers' FineGrainedFP8Config.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from splitlearn.checkpoints.quantization.arithmetic import FLOATS
from splitlearn.checkpoints.quantization.declaration import Declaration
from splitlearn.checkpoints.quantization.grid import Grid
from splitlearn.checkpoints.quantization.weight import QuantizedWeight, Rows, beside, fail
from splitlearn.checkpoints.weight_files import StoredTensor

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
# exponents alone: as such, or as bytes of which 127 stands for 1
_SCALES = (*FLOATS, torch.float8_e8m0fnu, torch.uint8)
_DEFAULT_BLOCK = (128, 128)
# what follows the name of a weight and "_"; the second is how per-tensor scales were called first
_ENDINGS = ("scale_inv", "scale")


@dataclass(frozen=True)
class Fp8:
    """quant_method fp8."""

    block: tuple[int, int] | None

    @property
    def title(self) -> str:
        return "fp8"

    @classmethod
    def read(cls, declared: Declaration) -> "Fp8":
        """Raises UnsupportedModel, BadCheckpoint."""
        experts = declared.text("expert_dtype", "fp8")
        if experts != "fp8":
            raise declared.refuse(f"expert_dtype {experts}")
        given = "weight_block_size" in declared.values
        return cls(declared.block("weight_block_size") if given else _DEFAULT_BLOCK)

    def weights(self, stored: Mapping[str, StoredTensor]) -> Iterator[QuantizedWeight]:
        for key, codes in stored.items():
            if codes.dtype in FP8:
                ending = next((each for each in _ENDINGS if f"{key}_{each}" in stored), _ENDINGS[0])
                yield self._weight(codes, beside(stored, f"{key}_{ending}", key))

    def _weight(self, codes: StoredTensor, scales: StoredTensor) -> QuantizedWeight:
        if len(codes.shape) not in (2, 3) or 0 in codes.shape:
            raise fail(codes.key, f"should be a matrix or a stack of them, and has the shape {list(codes.shape)}")
        whole = (codes.shape[-2], codes.shape[-1])
        is_one = all(size == 1 for size in scales.shape)
        block = whole if is_one or self.block is None else self.block
        # one scale for a stack of experts holds for all of them
        grid = Grid(codes.shape[-2:] if is_one else codes.shape, block)
        grid.checked(scales, _SCALES)

        def rows() -> Rows:
            read, scale = codes.read(), _numbers(scales.read())

            def of(start: int, stop: int) -> torch.Tensor:
                numbers = read[start:stop].to(torch.float32)
                return numbers * (scale.reshape(()) if is_one else grid.spread(scale, start, stop))

            return of

        return QuantizedWeight(codes.key, codes.shape, codes, scales, rows)


def _numbers(scales: torch.Tensor) -> torch.Tensor:
    if scales.dtype == torch.uint8:
        return (scales.to(torch.float32) - 127).exp2()
    return scales.to(torch.float32)
