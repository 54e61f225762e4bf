"""MXFP4 as gpt-oss stores its experts: numbers of 4 bits (E2M1) in blocks of 32 with one exponent (E8M0).

`NAME_blocks` `[experts, outputs, blocks, 16]` and `NAME_scales` `[experts, outputs, blocks]` make the tensor NAME
`[experts, inputs, outputs]`. The first number of a byte is in its lower bits.

Source: https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from splitlearn.checkpoints.quantization.declaration import Declaration
from splitlearn.checkpoints.quantization.weight import QuantizedWeight, Rows, beside, check, fail
from splitlearn.checkpoints.weight_files import StoredTensor

_CODES, _SCALES = "_blocks", "_scales"
_NUMBERS = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])
_PAIRS = torch.stack([_NUMBERS[torch.arange(256) & 15], _NUMBERS[torch.arange(256) >> 4]], 1)
"""What each byte stands for."""
_BLOCK_BYTES = 16
_ONE = 127
"""The exponent that stands for 1."""


@dataclass(frozen=True)
class Mxfp4:
    """quant_method mxfp4."""

    @property
    def title(self) -> str:
        return "mxfp4"

    @classmethod
    def read(cls, declared: Declaration) -> "Mxfp4":
        """Has no options that change what is stored."""
        return cls()

    def weights(self, stored: Mapping[str, StoredTensor]) -> Iterator[QuantizedWeight]:
        for key, codes in stored.items():
            if key.endswith(_CODES):
                name = key.removesuffix(_CODES)
                yield _weight(name, codes, beside(stored, name + _SCALES, key))


def _weight(name: str, codes: StoredTensor, scales: StoredTensor) -> QuantizedWeight:
    if len(codes.shape) != 4 or 0 in codes.shape or codes.shape[-1] != _BLOCK_BYTES:
        raise fail(codes.key, f"should have the shape [experts, outputs, blocks, 16], and has {list(codes.shape)}")
    experts, outputs, blocks, _ = codes.shape
    check(codes, (torch.uint8,), [codes.shape])
    check(scales, (torch.uint8,), [(experts, outputs, blocks)])

    def rows() -> Rows:
        packed, exponents = codes.read(), scales.read()

        def of(start: int, stop: int) -> torch.Tensor:
            pairs = _PAIRS.index_select(0, packed[start:stop].reshape(-1).to(torch.int32))
            numbers = pairs.reshape(stop - start, outputs, blocks, 2 * _BLOCK_BYTES)
            numbers *= (exponents[start:stop].to(torch.float32) - _ONE).exp2().unsqueeze(-1)
            return numbers.flatten(-2).transpose(1, 2)

        return of

    return QuantizedWeight(name, (experts, blocks * 2 * _BLOCK_BYTES, outputs), codes, scales, rows)
