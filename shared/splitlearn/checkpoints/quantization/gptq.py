"""GPTQ: codes of 2, 4 or 8 bits in groups of inputs, which act-order deals to groups in any order.

The weight of output o and input i is `(code - zero) * scale`, with zero and scale of group `g_idx[i]` and output o.
qweight packs codes along the inputs and has outputs as columns; qzeros packs along the outputs. Version 1 stores zeros
less one, modulo the number of codes; version 2 as they are.

Sources: https://github.com/AutoGPTQ/AutoGPTQ (qlinear), https://github.com/ModelCloud/GPTQModel (versions).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from splitlearn.checkpoints.int4 import Int4Codes, Int4Groups
from splitlearn.checkpoints.quantization.arithmetic import FLOATS, groups, spread, unpack
from splitlearn.checkpoints.quantization.declaration import Declaration
from splitlearn.checkpoints.quantization.weight import QuantizedWeight, Rows, beside, check, fail, matrix
from splitlearn.checkpoints.weight_files import StoredTensor

_CODES, _SCALES, _ZEROS, _GROUPS = ".qweight", ".scales", ".qzeros", ".g_idx"
_BITS = (2, 4, 8)
_VERSIONS = {"gptq": 1, "gptq_v2": 0}
"""What is to be added to zeros of each version."""
_INTEGERS = (torch.int32, torch.int64)


@dataclass(frozen=True)
class Gptq:
    """quant_method gptq.

    Attributes:
        group: how many inputs have one scale; -1 for all.
        added: to stored zeros.
    """

    bits: int
    group: int
    added: int

    @property
    def title(self) -> str:
        return f"gptq with {self.bits} bits"

    @classmethod
    def read(cls, declared: Declaration) -> "Gptq":
        """Raises UnsupportedModel, BadCheckpoint."""
        bits = declared.whole("bits")
        if bits not in _BITS:
            raise declared.refuse(f"{bits} bits")
        if declared.flag("is_marlin_format", False):
            raise declared.refuse("Marlin's packing (is_marlin_format)")
        form = declared.text("checkpoint_format", declared.text("format", "gptq"))
        if form not in _VERSIONS:
            raise declared.refuse(f"checkpoint_format {form}")
        if (words := declared.text("pack_dtype", "int32")) != "int32":
            raise declared.refuse(f"pack_dtype {words}")
        # modules under "-:" are not quantised; under other patterns they have bits of their own
        overrides = declared.section("dynamic")
        own = [] if overrides is None else [each for each in overrides.values if not each.startswith("-:")]
        if own:
            raise declared.refuse(f"dynamic options for {own[0]}")
        group = declared.whole("group_size", 128)
        if group != -1 and group <= 0:
            raise declared.refuse(f"group_size {group}")
        return cls(bits, group, _VERSIONS[form])

    def weights(self, stored: Mapping[str, StoredTensor]) -> Iterator[QuantizedWeight]:
        for key, codes in stored.items():
            if key.endswith(_CODES):
                yield self._weight(key.removesuffix(_CODES), codes, stored)

    def _weight(self, module: str, codes: StoredTensor, stored: Mapping[str, StoredTensor]) -> QuantizedWeight:
        per_word = 32 // self.bits
        check(codes, (torch.int32,), [codes.shape])
        words, outputs = matrix(codes)
        inputs = words * per_word
        group = inputs if self.group == -1 else self.group
        if inputs % group:
            raise fail(codes.key, f"has {inputs} inputs, which groups of {group} do not divide")
        n_groups = inputs // group
        scales = check(beside(stored, module + _SCALES, codes.key), FLOATS, [(n_groups, outputs)])
        zeros = beside(stored, module + _ZEROS, codes.key)
        check(zeros, (torch.int32,), [(n_groups, -(-outputs // per_word))])
        order = stored.get(module + _GROUPS)
        if order is not None:
            check(order, _INTEGERS, [(inputs,)])

        def grid() -> tuple[torch.Tensor, torch.Tensor]:
            zero_GO = (unpack(zeros.read(), self.bits)[:, :outputs] + self.added) & (2**self.bits - 1)
            return scales.read().T, zero_GO.T

        def rows() -> Rows:
            packed, (scale_OG, zero_OG) = codes.read(), grid()
            group_I = groups(inputs, group) if order is None else _dealt(order, n_groups)

            def of(start: int, stop: int) -> torch.Tensor:
                numbers = unpack(packed[:, start:stop].T, self.bits).to(torch.float32)
                rows_O = torch.arange(start, stop)
                numbers -= spread(zero_OG, rows_O, group_I)
                return numbers.mul_(spread(scale_OG, rows_O, group_I))

            return of

        def in_order() -> bool:
            return order is None or torch.equal(_dealt(order, n_groups), groups(inputs, group))

        shape = (outputs, inputs)
        others = () if order is None else (order,)
        int4 = (
            Int4Codes(group, lambda: unpack(codes.read().T, self.bits), lambda: Int4Groups(*grid()), in_order)
            if self.bits == 4
            else None
        )
        return QuantizedWeight(f"{module}.weight", shape, codes, scales, rows, zeros, others, int4)


def _dealt(order: StoredTensor, n_groups: int) -> torch.Tensor:
    """Which group each input is in."""
    read = order.read().to(torch.int64)
    if int(read.min()) < 0 or int(read.max()) >= n_groups:
        raise fail(order.key, f"names groups from {int(read.min())} to {int(read.max())}, of {n_groups}")
    return read
