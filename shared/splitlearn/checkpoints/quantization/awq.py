"""AWQ: codes of 4 bits with zeros, in groups of inputs, in one of two packings.

The weight of output o and input i is `(code - zero) * scale`, with zero and scale of its group and output.

- gemm: qweight `[inputs, outputs / 8]`, qzeros and scales `[groups, outputs (/ 8)]`; in an integer are outputs
  0, 2, 4, 6, 1, 3, 5, 7, from the lowest bits.
- gemv: qweight `[outputs, inputs / 8]`, qzeros and scales `[outputs, groups (/ 8)]`, padded to the widths that its
  kernel reads; in an integer, inputs (groups) stand in order.

Source: https://github.com/casper-hansen/AutoAWQ (modules/linear).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from splitlearn.checkpoints.int4 import Int4Codes, Int4Groups
from splitlearn.checkpoints.quantization.arithmetic import FLOATS, groups, spread, unpack
from splitlearn.checkpoints.quantization.declaration import Declaration
from splitlearn.checkpoints.quantization.weight import QuantizedWeight, Rows, beside, check, fail, matrix
from splitlearn.checkpoints.weight_files import StoredTensor

_CODES, _SCALES, _ZEROS = ".qweight", ".scales", ".qzeros"
_BITS, _PER_WORD = 4, 8
_PLACE_OF_OUTPUT = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
"""Of eight codes of gemm's packing, where those of outputs 0 to 7 are."""
_MULTIPLES = {32: 4, 64: 2}
"""By group size, what gemv pads the words of a row of zeros to multiples of."""


@dataclass(frozen=True)
class Awq:
    """quant_method awq.

    Attributes:
        version: the packing, "gemm" or "gemv".
        group: how many inputs have one scale; -1 for all.
    """

    version: str
    group: int

    @property
    def title(self) -> str:
        return f"awq {self.version}"

    @classmethod
    def read(cls, declared: Declaration) -> "Awq":
        """Raises UnsupportedModel, BadCheckpoint."""
        bits = declared.whole("bits", declared.whole("w_bit", _BITS))
        if bits != _BITS:
            raise declared.refuse(f"{bits} bits")
        if not declared.flag("zero_point", True):
            raise declared.refuse("zero_point false")
        version = declared.text("version", declared.text("format", "gemm"))
        backend = declared.text("backend", "autoawq")
        if version not in ("gemm", "gemv"):
            raise declared.refuse(f"version {version}")
        if backend == "llm-awq":
            raise declared.refuse(f"backend {backend}")
        group = declared.whole("group_size", declared.whole("q_group_size", 128))
        if group != -1 and group <= 0:
            raise declared.refuse(f"group_size {group}")
        return cls(version, group)

    def weights(self, stored: Mapping[str, StoredTensor]) -> Iterator[QuantizedWeight]:
        read = self._gemm if self.version == "gemm" else self._gemv
        for key, codes in stored.items():
            if key.endswith(_CODES):
                check(codes, (torch.int32,), [codes.shape])
                module = key.removesuffix(_CODES)
                scales = beside(stored, module + _SCALES, key)
                yield read(f"{module}.weight", codes, scales, beside(stored, module + _ZEROS, key))

    def _groups(self, codes: StoredTensor, inputs: int) -> int:
        """How many inputs a group has. Raises BadCheckpoint."""
        group = inputs if self.group == -1 else self.group
        if inputs % group:
            raise fail(codes.key, f"has {inputs} inputs, which groups of {group} do not divide")
        return group

    def _gemm(self, name: str, codes: StoredTensor, scales: StoredTensor, zeros: StoredTensor) -> QuantizedWeight:
        inputs, words = matrix(codes)
        group, outputs = self._groups(codes, inputs), words * _PER_WORD
        check(scales, FLOATS, [(inputs // group, outputs)])
        check(zeros, (torch.int32,), [(inputs // group, words)])

        def grid() -> tuple[torch.Tensor, torch.Tensor]:
            return scales.read().T, _in_order(zeros.read()).T

        def rows() -> Rows:
            packed, (scale, zero) = codes.read(), grid()
            group_I = groups(inputs, group)

            def of(start: int, stop: int) -> torch.Tensor:
                first, last = start // _PER_WORD, -(-stop // _PER_WORD)
                some = _in_order(packed[:, first:last])
                numbers = some[:, start - first * _PER_WORD : stop - first * _PER_WORD].T.to(torch.float32)
                rows_O = torch.arange(start, stop)
                return (numbers - spread(zero, rows_O, group_I)) * spread(scale, rows_O, group_I)

            return of

        int4 = Int4Codes(group, lambda: _in_order(codes.read()).T, lambda: Int4Groups(*grid()))
        return QuantizedWeight(name, (outputs, inputs), codes, scales, rows, zeros, int4=int4)

    def _gemv(self, name: str, codes: StoredTensor, scales: StoredTensor, zeros: StoredTensor) -> QuantizedWeight:
        outputs, words = matrix(codes)
        inputs = words * _PER_WORD
        group = self._groups(codes, inputs)
        n_groups = inputs // group
        multiple = _MULTIPLES.get(group, 1)
        words_of_groups = -(-n_groups // _PER_WORD)
        width = -(-words_of_groups // multiple) * multiple
        check(scales, FLOATS, [(outputs, width * _PER_WORD)])
        check(zeros, (torch.int32,), [(outputs, width)])

        def grid() -> tuple[torch.Tensor, torch.Tensor]:
            return scales.read()[:, :n_groups], unpack(zeros.read(), _BITS)[:, :n_groups]

        def rows() -> Rows:
            packed, (scale, zero) = codes.read(), grid()
            group_I = groups(inputs, group)

            def of(start: int, stop: int) -> torch.Tensor:
                numbers = unpack(packed[start:stop], _BITS).to(torch.float32)
                rows_O = torch.arange(start, stop)
                return (numbers - spread(zero, rows_O, group_I)) * spread(scale, rows_O, group_I)

            return of

        int4 = Int4Codes(group, lambda: unpack(codes.read(), _BITS), lambda: Int4Groups(*grid()))
        return QuantizedWeight(name, (outputs, inputs), codes, scales, rows, zeros, int4=int4)


def _in_order(words: torch.Tensor) -> torch.Tensor:
    """Codes of gemm's packing, along the last axis."""
    codes = unpack(words, _BITS)
    return codes.reshape(*words.shape, _PER_WORD).index_select(-1, _PLACE_OF_OUTPUT).flatten(-2)
