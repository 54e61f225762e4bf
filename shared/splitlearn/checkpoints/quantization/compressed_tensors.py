"""compressed-tensors, as llm-compressor writes it: whole numbers or FP8, packed into int32 or one in a byte.

Source: https://github.com/vllm-project/compressed-tensors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from splitlearn.checkpoints.int4 import Int4Codes, Int4Groups
from splitlearn.checkpoints.quantization.arithmetic import unpack
from splitlearn.checkpoints.quantization.compressed_schemes import Scheme, Schemes
from splitlearn.checkpoints.quantization.declaration import Declaration
from splitlearn.checkpoints.quantization.weight import QuantizedWeight, Rows, beside, check, matrix
from splitlearn.checkpoints.weight_files import StoredTensor

_PACKED, _SCALE, _ZERO, _SHAPE = ".weight_packed", ".weight_scale", ".weight_zero_point", ".weight_shape"
_INTEGERS = (torch.int64, torch.int32)


@dataclass(frozen=True)
class CompressedTensors:
    """quant_method compressed-tensors."""

    schemes: Schemes

    @property
    def title(self) -> str:
        return "compressed-tensors"

    @classmethod
    def read(cls, declared: Declaration) -> "CompressedTensors":
        """Raises UnsupportedModel, BadCheckpoint."""
        return cls(Schemes.read(declared))

    def weights(self, stored: Mapping[str, StoredTensor]) -> Iterator[QuantizedWeight]:
        for key in stored:
            if not key.endswith(_SCALE):
                continue
            module = key.removesuffix(_SCALE)
            scheme = self.schemes.of(module)
            if f"{module}.weight_g_idx" in stored:
                raise scheme.declared.refuse(f"columns in order of activations ({module}.weight_g_idx)")
            read = _packed if scheme.is_packed else _unpacked
            yield read(module, scheme, stored)
        for key in stored:
            if key.endswith(_PACKED):
                beside(stored, key.removesuffix(_PACKED) + _SCALE, key)


def _packed(module: str, scheme: Scheme, stored: Mapping[str, StoredTensor]) -> QuantizedWeight:
    scales = stored[module + _SCALE]
    codes = beside(stored, module + _PACKED, scales.key)
    said = check(beside(stored, module + _SHAPE, codes.key), _INTEGERS, [(2,)])
    rows, columns = (int(size) for size in said.read())
    check(codes, (torch.int32,), [(rows, -(-columns * scheme.bits // 32))])
    matrix(codes)
    grid = scheme.grid((rows, columns), scales.key)
    grid.checked(scales)
    zeros = None
    if not scheme.symmetric:
        zeros = beside(stored, module + _ZERO, codes.key)
        check(zeros, (torch.int32,), [(-(-rows * scheme.bits // 32), grid.counts[1])])
    middle = 2 ** (scheme.bits - 1)

    def read_groups() -> Int4Groups:
        # zeros are packed along the rows
        zero = None if zeros is None else unpack(zeros.read().T, scheme.bits).T[:rows]
        return Int4Groups(scales.read().reshape(grid.counts), zero)

    def open_rows() -> Rows:
        words, (scale, zero, _) = codes.read(), read_groups()

        def of(start: int, stop: int) -> torch.Tensor:
            numbers = unpack(words[start:stop], scheme.bits)[:, :columns].to(torch.float32)
            numbers -= middle if zero is None else grid.spread(zero, start, stop)
            return numbers * grid.spread(scale, start, stop)

        return of

    int4 = None
    if scheme.bits == 4 and grid.block[0] == 1:
        int4 = Int4Codes(grid.block[1], lambda: unpack(codes.read(), scheme.bits)[:, :columns], read_groups)
    return QuantizedWeight(f"{module}.weight", (rows, columns), codes, scales, open_rows, zeros, (said,), int4)


def _unpacked(module: str, scheme: Scheme, stored: Mapping[str, StoredTensor]) -> QuantizedWeight:
    scales = stored[module + _SCALE]
    codes = beside(stored, f"{module}.weight", scales.key)
    shape = matrix(codes)
    check(codes, (scheme.dtype,), [shape])
    grid = scheme.grid(shape, scales.key)
    grid.checked(scales)
    # those of a symmetric scheme are all 0, where they are stored at all
    zeros = stored.get(module + _ZERO) if scheme.symmetric else beside(stored, module + _ZERO, codes.key)
    if zeros is not None:
        grid.checked(zeros, (scheme.dtype,))

    def open_rows() -> Rows:
        read, scale = codes.read(), scales.read()
        zero = None if zeros is None else zeros.read()

        def of(start: int, stop: int) -> torch.Tensor:
            numbers = read[start:stop].to(torch.float32)
            if zero is not None:
                numbers -= grid.spread(zero, start, stop)
            return numbers * grid.spread(scale, start, stop)

        return of

    return QuantizedWeight(codes.key, shape, codes, scales, open_rows, zeros)
