"""What a cut and a distortion cost: quality, the client's time and memory, bytes on the wire.

Shapes: N texts, T tokens of each, P positions that count, D hidden size, V vocabulary.
"""

import time
from dataclasses import dataclass
from statistics import median
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from splitlearn_privacy.cut_model import CutModel
from splitlearn_privacy.texts import Texts
from splitlearn_privacy.wire import Distortion

_TIMED_TOKENS: Final = 32


@dataclass(frozen=True)
class Costs:
    """`perplexity` of what a model is expected to say in the test texts, and how much greater it is than without
    distortion. `agreement`: how often the likeliest next token is that without distortion.

    `client_seconds`: the median of what bottom and top compute for a token, in float32 on this machine. `client_bytes`:
    their weights in the dtype of the files. `row_bytes`: one row on the wire, one way.
    """

    perplexity: float
    perplexity_change: float
    agreement: float
    client_seconds: float
    client_bytes: int
    row_bytes: int


@dataclass(frozen=True, eq=False)
class Plain:
    """What does not depend on the distortion. `loss` is in nats per token, `said_NT` are the likeliest next tokens."""

    loss: float
    said_NT: Tensor  # noqa: N815 - a shape
    client_seconds: float
    client_bytes: int


def plain_costs(model: CutModel, texts: Texts) -> Plain:
    """Measures a cut without distortion."""
    loss, said_NT = _predicted(model, texts, None, 0)
    return Plain(loss, said_NT, _client_seconds(model, texts.test_NT[0]), _client_bytes(model))


@torch.no_grad()
def costs(model: CutModel, texts: Texts, distortion: Distortion, plain: Plain, seed: int) -> Costs:
    """Measures a distortion of a cut."""
    loss, said_NT = _predicted(model, texts, distortion, seed)
    perplexity, before = (float(torch.tensor(each).exp()) for each in (loss, plain.loss))
    agreement = float((said_NT == plain.said_NT).double().mean())
    row_bytes = distortion.bytes_of_row(model.sent(texts.test_NT[:1])[0, -1])
    return Costs(perplexity, perplexity - before, agreement, plain.client_seconds, plain.client_bytes, row_bytes)


def _predicted(model: CutModel, texts: Texts, distortion: Distortion | None, seed: int) -> tuple[float, Tensor]:
    """Nats per token that is said, and the likeliest next tokens [N, T]."""
    losses: list[Tensor] = []
    said: list[Tensor] = []
    pieces = (torch.split(each, model.TEXTS_AT_ONCE) for each in (texts.test_NT, texts.test_said_NT))
    for logits_NTV, ids_NT, is_said_NT in zip(model.predictions(texts.test_NT, distortion, seed), *pieces, strict=True):
        is_counted_NT = is_said_NT[:, 1:]
        logits_PV = logits_NTV[:, :-1][is_counted_NT].double()
        losses.append(functional.cross_entropy(logits_PV, ids_NT[:, 1:][is_counted_NT], reduction="none"))
        said.append(logits_NTV.argmax(-1))
    return float(torch.cat(losses).mean()), torch.cat(said)


@torch.no_grad()
def _client_seconds(model: CutModel, ids_T: Tensor) -> float:
    """The median over some tokens, one after the other, as a session computes them."""
    caches = [model.bottom.new_cache(), model.top.new_cache()]
    found: list[float] = []
    for number in range(min(_TIMED_TOKENS, model.bottom.context_length or _TIMED_TOKENS)):
        began = time.perf_counter()
        row_TD = model.bottom(ids_T[number % len(ids_T)][None], caches[0].n_rows, caches[0])
        model.top(row_TD, caches[1].n_rows, caches[1])
        found.append(time.perf_counter() - began)
    return median(found)


def _client_bytes(model: CutModel) -> int:
    # embeddings and head may be one tensor
    own = {p.data_ptr(): p for part in (model.bottom, model.top) for p in part.parameters()}
    return sum(each.numel() for each in own.values()) * model.dtype.itemsize
