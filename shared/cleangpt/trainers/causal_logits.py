"""The logits of a causal language model, always by its own forward: some models scale, cap or transform them.

Where nothing has to be predicted, the head need not run; whether a model allows that is tried out once.

Shapes: B rows, T positions, N chosen positions, D hidden size, V vocabulary.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cleangpt.errors import BadInputError, NotCausalError
from cleangpt.model.context import context_of
from cleangpt.model.form import check_form
from cleangpt.trainers.modes import evaluation_mode

_TRIED_LENGTH = 8
# rounding, and what a mixture of experts makes of it
_TOLERANCE = 1e-3
# of the same positions in two texts of equal length hardly even rounding differs in most models, but a small one with
# fresh weights that sees the future may differ by as little as a ten-thousandth
_CAUSAL_TOLERANCE = 1e-5
# how much more than rounding noise the future has to change
_NOISE_MARGIN = 4.0
_OTHER_ROWS = (1, 2, 3)
_COARSE_TOLERANCE = 3e-2

# by model: whether its head can be given the chosen positions alone
_tried: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


def causal_logits(model: Any, ids_BT: Tensor, chosen_BT: Tensor | None = None) -> Tensor:
    """The logits at all positions [B, T, V], or at the chosen ones [N, V], row by row. See `check_ids` for the ids.

    Raises:
        NotCausalError: the model's logits depend on later ids.
        ModelFormError: the model is not in Hugging Face's form.
    """
    if chosen_BT is None:
        try_out(model)
        return _forward(model, ids_BT)
    if try_out(model):
        with head_reads_only(model.get_output_embeddings(), chosen_BT):
            return _forward(model, ids_BT)
    return _forward(model, ids_BT)[chosen_BT]


def check_ids(model: Any, ids_BT: Tensor) -> None:
    """Raises BadInputError if an id is outside the model's vocabulary, and ModelFormError for a plain module."""
    check_form(model)
    rows = len(model.get_input_embeddings().weight)
    lowest, highest = (int(each) for each in ids_BT.aminmax()) if ids_BT.numel() else (0, 0)
    if lowest < 0 or highest >= rows:
        raise BadInputError(
            f"the text has the id {lowest if lowest < 0 else highest}, and the model has the ids 0 to {rows - 1}; "
            "encode the text with the model's own tokenizer, and pad with an id that it has"
        )


def try_out(model: Any) -> bool:
    """Whether the head can be given some positions alone. Runs the model on a few ids when it is seen first.

    Call it before the model is compiled. Raises NotCausalError and ModelFormError.
    """
    check_form(model)
    known = _tried.get(model)
    if known is None:
        with evaluation_mode(model), torch.no_grad():
            known = _try(model)
        if known is None:
            return False
        _tried[model] = known
    return known


@contextmanager
def head_reads_only(head: nn.Module, chosen_BT: Tensor) -> Iterator[None]:
    """Runs the head only on the chosen positions while the context lasts, so that logits are [N, V]."""

    def choose(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][chosen_BT], *inputs[1:])

    hook = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def _try(model: Any) -> bool | None:
    weight = model.get_input_embeddings().weight
    # a model may have fewer positions; of a module in Hugging Face's form alone nobody knows
    context = context_of(model) if isinstance(model, PreTrainedModel) else None
    length = min(_TRIED_LENGTH, context or _TRIED_LENGTH)
    ids_BT = torch.randint(len(weight), (1, length), generator=torch.Generator().manual_seed(0))
    ids_BT = ids_BT.to(weight.device)
    others_BT = ids_BT.clone()
    others_BT[:, -1] = (ids_BT[:, -1] + 1) % len(weight)
    whole_BTV = _forward(model, ids_BT)
    if whole_BTV.isnan().any():
        # says nothing about the model but that its weights are broken, which the loss will show
        return None
    changed = _difference(_forward(model, others_BT)[:, :-1], whole_BTV[:, :-1])
    if changed > _allowed(whole_BTV, _CAUSAL_TOLERANCE) and changed > _NOISE_MARGIN * _noise(model, ids_BT, whole_BTV):
        raise NotCausalError(
            f"{model.config.model_type} predicts an id from those after it too, so it is not a causal language model; "
            "choose another model_type, or make it one (some types are if their config has is_decoder = true)"
        )
    chosen_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    chosen_BT[:, ::2] = True
    try:
        with head_reads_only(model.get_output_embeddings(), chosen_BT):
            some_NV = _forward(model, ids_BT)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        # what comes before or after the head needs all positions
        return False
    return _difference(some_NV, whole_BTV[chosen_BT]) <= _allowed(whole_BTV, _TOLERANCE)


def _noise(model: Any, ids_BT: Tensor, whole_BTV: Tensor) -> float:
    """How much the logits of the row of ids differ where other rows, which it cannot see, lie beside it.

    It is rounding: matrix products of other sizes add up in another order, and a mixture of experts makes more of that.
    """
    n_ids, found = len(model.get_input_embeddings().weight), [0.0]
    for n_others in _OTHER_ROWS:
        rows_BT = torch.cat([(ids_BT + shift) % n_ids for shift in range(n_others + 1)])
        found.append(_difference(_forward(model, rows_BT)[:1, :-1], whole_BTV[:, :-1]))
    return max(each for each in found if each < math.inf)


def _allowed(expected: Tensor, tolerance: float) -> float:
    return tolerance if expected.dtype in (torch.float32, torch.float64) else _COARSE_TOLERANCE


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest expected value; inf if not even their shapes are equal."""
    if found.shape != expected.shape:
        return math.inf
    # some models exclude ids by minus infinity
    is_finite = expected.isfinite()
    if not torch.equal(is_finite, found.isfinite()):
        return math.inf
    found, expected = found[is_finite].float(), expected[is_finite].float()
    if torch.equal(found, expected):
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max())


def _forward(model: Any, ids_BT: Tensor) -> Tensor:
    # padding is on the right, where a causal model's earlier positions cannot see it: no mask needed
    return torch.as_tensor(model(input_ids=ids_BT, use_cache=False).logits)
