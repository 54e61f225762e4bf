"""Packings of GPTQ, AWQ and compressed-tensors, from their descriptions one code at a time, with what they stand for.

Nothing here calls the product. Shape suffixes: I inputs, O outputs, G groups.
"""

from collections.abc import Sequence

import torch

State = dict[str, torch.Tensor]


def pack_along(codes: torch.Tensor, axis: int, bits: int, order: Sequence[int] | None = None) -> torch.Tensor:
    """int32, in each of which the code `order[i]` of its own stands `i` codes above the lowest bits.

    What is missing at the end of the axis is 0.
    """
    per_word = 32 // bits
    rows = codes.movedim(axis, 0).tolist()
    words = []
    for first in range(0, len(rows), per_word):
        word = [0] * len(rows[0])
        for place, index in enumerate(order or range(per_word)):
            if first + index < len(rows):
                word = [
                    so_far | (code << (bits * place)) for so_far, code in zip(word, rows[first + index], strict=True)
                ]
        words.append([each - 2**32 if each >= 2**31 else each for each in word])
    return torch.tensor(words, dtype=torch.int32).movedim(0, axis)


class RandomCodes:
    """Codes, zeros and scales of one weight, drawn at random, and the weight itself.

    Args:
        order: which group each input is in; None for groups that follow one another.
    """

    def __init__(self, outputs: int, inputs: int, group: int, bits: int, order: torch.Tensor | None = None) -> None:
        self.bits, self.group = bits, group
        n_groups = inputs // group
        self.codes_IO = torch.randint(0, 2**bits, (inputs, outputs))
        self.zeros_GO = torch.randint(0, 2**bits, (n_groups, outputs))
        # GPTQ stores a zero of 0 as the greatest code
        self.zeros_GO[:, 0] = 0
        self.scales_GO = (torch.rand(n_groups, outputs) * 0.1 / 2**bits + 1e-4).to(torch.float16)
        group_I = torch.arange(inputs) // group if order is None else order
        less_zero_IO = (self.codes_IO - self.zeros_GO[group_I]).double()
        self.weight_OI = (less_zero_IO * self.scales_GO[group_I].double()).T

    def make_symmetric(self) -> None:
        """All zeros become the middle."""
        self.zeros_GO[:] = 2 ** (self.bits - 1)
        group_I = torch.arange(len(self.codes_IO)) // self.group
        self.weight_OI = ((self.codes_IO - self.zeros_GO[group_I]).double() * self.scales_GO[group_I].double()).T

    def compressed(self, *, symmetric: bool) -> State:
        """As pack-quantized, with the scales' dtype."""
        shape = torch.tensor(self.codes_IO.T.shape)
        packed = {"weight_packed": pack_along(self.codes_IO.T, 1, self.bits), "weight_shape": shape}
        zeros = {} if symmetric else {"weight_zero_point": pack_along(self.zeros_GO.T, 0, self.bits)}
        return {**packed, **zeros, "weight_scale": self.scales_GO.T}

    def gptq(self, version: int = 1) -> State:
        zeros = (self.zeros_GO - int(version == 1)) % 2**self.bits
        packed = {"qweight": pack_along(self.codes_IO, 0, self.bits), "qzeros": pack_along(zeros, 1, self.bits)}
        return {**packed, "scales": self.scales_GO}

    def awq_gemm(self) -> State:
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        packed = {"qweight": pack_along(self.codes_IO, 1, 4, order), "qzeros": pack_along(self.zeros_GO, 1, 4, order)}
        return {**packed, "scales": self.scales_GO}

    def awq_gemv(self, words: int) -> State:
        """Args: words: of a row of zeros, padding included."""
        scales, zeros = self.scales_GO.T, pack_along(self.zeros_GO.T, 1, 4)
        return {
            "qweight": pack_along(self.codes_IO.T, 1, 4),
            "qzeros": torch.nn.functional.pad(zeros, (0, words - zeros.shape[1])),
            "scales": torch.nn.functional.pad(scales, (0, words * 8 - scales.shape[1])),
        }
