"""bitsandbytes: codes of 4 bits (nf4, fp4) in blocks along the whole weight, or of 8 bits with a scale for each row.

4 bits: `weight` holds two codes in a byte, the first in the upper bits; `weight.quant_map` the number of each code;
`weight.absmax` the scales, as numbers or, quantised once more, as codes; `weight.quant_state.*` the rest, as JSON.
8 bits: `weight` int8 and `SCB`, which is what 127 stands for in each row.

Source: https://github.com/bitsandbytes-foundation/bitsandbytes (functional.QuantState).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from splitlearn.checkpoints.quantization.bitsandbytes_4bit import STATE, four_bit_weight
from splitlearn.checkpoints.quantization.declaration import Declaration
from splitlearn.checkpoints.quantization.weight import QuantizedWeight, Rows, beside, check, matrix
from splitlearn.checkpoints.weight_files import StoredTensor

_SCALES, _LAYOUT = ".SCB", ".weight_format"
_STEP = 0.007874015718698502
"""1 / 127 as the library rounds it."""


@dataclass(frozen=True)
class BitsAndBytes:
    """quant_method bitsandbytes; what is stored says which of both a weight is."""

    declared: Declaration

    @property
    def title(self) -> str:
        return "bitsandbytes"

    @classmethod
    def read(cls, declared: Declaration) -> "BitsAndBytes":
        """Raises BadCheckpoint."""
        if not declared.flag("load_in_4bit", False) and not declared.flag("load_in_8bit", False):
            raise declared.refuse("neither load_in_4bit nor load_in_8bit")
        return cls(declared)

    def weights(self, stored: Mapping[str, StoredTensor]) -> Iterator[QuantizedWeight]:
        for key, tensor in stored.items():
            if key.endswith(_SCALES):
                yield self._eight_bit(key.removesuffix(_SCALES), tensor, stored)
            elif STATE in key:
                name, _, kind = key.partition(STATE)
                yield four_bit_weight(self.declared, name, kind, tensor, stored)

    def _eight_bit(self, module: str, scales: StoredTensor, stored: Mapping[str, StoredTensor]) -> QuantizedWeight:
        codes = beside(stored, f"{module}.weight", scales.key)
        shape = matrix(codes)
        check(codes, (torch.int8,), [shape])
        check(scales, (torch.float32, torch.float16), [(shape[0],)])
        layout = stored.get(module + _LAYOUT)
        if layout is not None:
            check(layout, (torch.uint8,), [(), (1,)])
            if int(layout.read()) != 0:
                raise self.declared.refuse(f"{layout.key} {int(layout.read())}: rows in another order")

        def rows() -> Rows:
            read, scale = codes.read(), scales.read().to(torch.float32)
            # in the library's order, which rounds twice
            return lambda start, stop: read[start:stop].to(torch.float32) * scale[start:stop, None] * _STEP

        others = () if layout is None else (layout,)
        return QuantizedWeight(codes.key, shape, codes, scales, rows, beside=others)
