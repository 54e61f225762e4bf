"""Networks that read tokens off what is seen, and how they are trained.

Shapes: N texts, B texts of a batch, T tokens of each, W width of what is seen at a position, D hidden size,
V vocabulary.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitlearn_privacy.attacks.attack import GUESSES, Guesses, Knowledge

_BATCH: Final = 16
_MOST_EPOCHS: Final = 40
_PATIENCE: Final = 3
"""Epochs without a better loss on texts that were held out of the training."""
_HELD_OUT_EVERY: Final = 8


class TokenReader(nn.Module):
    """`body` maps what is seen, standardized, [B, T, W] to [B, T, D]; the embeddings of tokens are compared with that.

    So it can name tokens that the training texts do not have.
    """

    mean_W: Tensor  # noqa: N815 - a shape
    scale_W: Tensor  # noqa: N815 - a shape
    table_VD: Tensor  # noqa: N815 - a shape

    def __init__(self, body: nn.Module, knowledge: Knowledge) -> None:
        super().__init__()
        seen_PW = knowledge.seen_NTW.flatten(0, 1)
        table_VD = knowledge.model.embeddings_VD
        self.body = body
        self.register_buffer("mean_W", seen_PW.mean(0))
        self.register_buffer("scale_W", 1 / seen_PW.std(0).clamp(min=1e-6))
        self.register_buffer("table_VD", table_VD / table_VD.norm(dim=-1).mean())
        self.bias_V = nn.Parameter(torch.zeros(len(table_VD)))

    def forward(self, seen_BTW: Tensor) -> Tensor:
        """Logits [B, T, V]."""
        found_BTD = self.body((seen_BTW - self.mean_W) * self.scale_W)
        return torch.as_tensor(found_BTD @ self.table_VD.T + self.bias_V)


@dataclass(frozen=True)
class Training:
    """How a network is made and trained; `body` takes W and D."""

    body: Callable[[int, int], nn.Module]
    learning_rate: float

    def trained(self, knowledge: Knowledge) -> TokenReader:
        """The network, trained on the texts that the worker knows."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(knowledge.seed)
            body = self.body(knowledge.seen_NTW.shape[-1], knowledge.model.embeddings_VD.shape[-1])
            return _trained(TokenReader(body, knowledge), knowledge, self.learning_rate)

    @torch.no_grad()
    def read(self, knowledge: Knowledge, seen_NTW: Tensor) -> Guesses:
        """An attack's `read`."""
        reader = self.trained(knowledge)
        return Guesses(torch.cat([reader(some).topk(GUESSES).indices for some in torch.split(seen_NTW, _BATCH)]))


@torch.enable_grad()
def _trained(reader: TokenReader, knowledge: Knowledge, learning_rate: float) -> TokenReader:
    ids_NT, seen_NTW = knowledge.ids_NT, knowledge.seen_NTW
    is_held_out_N = torch.arange(len(ids_NT)) % _HELD_OUT_EVERY == 0
    learned_N = (~is_held_out_N).nonzero()[:, 0]
    optimizer = torch.optim.AdamW(reader.parameters(), learning_rate, weight_decay=0.01)
    best, best_loss, waited = copy.deepcopy(reader.state_dict()), float("inf"), 0
    for _ in range(_MOST_EPOCHS):
        reader.train()
        for batch_B in torch.split(learned_N[torch.randperm(len(learned_N))], _BATCH):
            optimizer.zero_grad()
            _loss(reader, ids_NT[batch_B], seen_NTW[batch_B]).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
            optimizer.step()
        reader.eval()
        with torch.no_grad():
            loss = float(_loss(reader, ids_NT[is_held_out_N], seen_NTW[is_held_out_N]))
        waited = 0 if loss < best_loss else waited + 1
        if loss < best_loss:
            best, best_loss = copy.deepcopy(reader.state_dict()), loss
        if waited == _PATIENCE:
            break
    reader.load_state_dict(best)
    return reader


def _loss(reader: TokenReader, ids_BT: Tensor, seen_BTW: Tensor) -> Tensor:
    return functional.cross_entropy(reader(seen_BTW).flatten(0, 1), ids_BT.flatten())
