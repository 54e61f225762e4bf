"""Rounding with error feedback: what rounding one input's weights adds to an output, the next inputs' make up for.

An output is off by the sum of its weights' errors, each times its input; the mean square of that is e H e^T for the
errors e of an output and the inputs' second moments H = E[x x^T]. Inputs are rounded one after the other, and the
weights of those that come are changed so that e H e^T is the least that it can still be. That is GPTQ (Frantar et al.
2022, after Hassibi and Stork 1993), in the order of the inputs; scales and zero points of a group are searched
(`splitlearn.calibration.search`) when its turn comes, on its weights as they are then.

Shapes: N outputs, K inputs, G groups, S inputs of a group.
"""

from typing import Final

import torch

from splitlearn.backends.cpu.linear.int4 import Int4Weight, quantize_int4
from splitlearn.calibration.search import search_int4

_GREATEST: Final = 15
_DAMPING: Final = 0.01
"""What is added to every input's mean square, of their mean: what few rows say is not taken for certain."""


def round_int4(weight_NK: torch.Tensor, moments_KK: torch.Tensor, group_size: int, *, zero_points: bool) -> Int4Weight:
    """The weight in 4 bits; of each output the best of three ways by `output_error`.

    The three are error feedback, the search alone, and rounding to the nearest: so it is never worse than that.

    Args:
        weight_NK: of any floating-point dtype; K is a multiple of `group_size`.
        moments_KK: E[x x^T] of the inputs, in fp32.
        group_size: inputs that share a scale.
        zero_points: whether groups have zero points of their own; they are 8 otherwise.

    Raises:
        BadCheckpoint: a weight, or a moment, is not a finite number.
    """
    searched = search_int4(weight_NK, moments_KK.diagonal(), group_size, zero_points=zero_points)
    fed_back = _fed_back(weight_NK.float(), moments_KK, group_size, zero_points)
    return _better(weight_NK, moments_KK, searched, fed_back)


def output_errors(weight_NK: torch.Tensor, found: Int4Weight, moments_KK: torch.Tensor) -> torch.Tensor:
    """The mean square of what each output [N] is off by, in fp64."""
    off_NK = weight_NK.float() - found.dequantized()
    return ((off_NK @ moments_KK).double() * off_NK.double()).sum(1)


def _better(weight_NK: torch.Tensor, moments_KK: torch.Tensor, one: Int4Weight, other: Int4Weight) -> Int4Weight:
    is_other_N1 = (
        output_errors(weight_NK, other, moments_KK) < output_errors(weight_NK, one, moments_KK)
    )[:, None]
    zero_NG = None
    if one.zero_NG is not None and other.zero_NG is not None:
        zero_NG = torch.where(is_other_N1, other.zero_NG, one.zero_NG)
    levels_NK = torch.where(is_other_N1, other.levels_NK, one.levels_NK)
    return Int4Weight(levels_NK, torch.where(is_other_N1, other.scale_NG, one.scale_NG), zero_NG, one.group_size)


def _fed_back(weight_NK: torch.Tensor, moments_KK: torch.Tensor, group_size: int, zero_points: bool) -> Int4Weight:
    left_NK = weight_NK.clone()
    passes_KK = _passes(moments_KK)
    importance_K = IMPORTANCE(passes_KK, moments_KK)
    found: list[Int4Weight] = []
    for first in range(0, weight_NK.shape[1], group_size):
        group = slice(first, first + group_size)
        scales = search_int4(left_NK[:, group].contiguous(), importance_K[group], group_size, zero_points=zero_points)
        scale_N1, zero_N1 = scales.scale_NG.float(), 8.0 if scales.zero_NG is None else scales.zero_NG.float()
        levels, errors = [], []
        for k in range(first, first + group_size):
            own_N1 = left_NK[:, k : k + 1]
            levels_N1 = (own_N1 / scale_N1).add_(zero_N1).round_().nan_to_num_(0).clamp_(0, _GREATEST)
            error_N1 = (own_N1 - (levels_N1 - zero_N1) * scale_N1) / passes_KK[k, k]
            left_NK[:, k : first + group_size] -= error_N1 * passes_KK[k, k : first + group_size]
            levels.append(levels_N1)
            errors.append(error_N1)
        left_NK[:, group.stop :] -= torch.cat(errors, 1) @ passes_KK[group, group.stop :]
        found.append(Int4Weight(torch.cat(levels, 1).to(torch.uint8), scales.scale_NG, scales.zero_NG, group_size))
    zeros = [each.zero_NG for each in found if each.zero_NG is not None]
    return Int4Weight(
        torch.cat([each.levels_NK for each in found], 1),
        torch.cat([each.scale_NG for each in found], 1),
        torch.cat(zeros, 1) if zeros else None,
        group_size,
    )

MODE="diag"
def IMPORTANCE(passes, moments):
    return moments.diagonal() if MODE=="diag" else passes.diagonal().square().reciprocal()

def _passes(moments_KK: torch.Tensor) -> torch.Tensor:
    """How an input's error passes to those behind it: the Cholesky factor [K, K], upper, of the moments' inverse."""
    damped_KK = moments_KK.clone()
    diagonal_K = damped_KK.diagonal()
    mean = diagonal_K.mean()
    # an input that is always nothing has no say
    diagonal_K += torch.where(mean > 0, _DAMPING * mean, torch.ones_like(mean))
    inverse_KK = torch.cholesky_inverse(torch.linalg.cholesky(damped_KK))
    return torch.linalg.cholesky(inverse_KK, upper=True)
