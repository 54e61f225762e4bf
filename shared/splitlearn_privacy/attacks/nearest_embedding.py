"""The token whose embedding points in the direction of the row.

Shapes: N texts, T tokens of each, D hidden size, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from splitlearn_privacy.attacks.attack import GUESSES, Attack, Guesses, Knowledge
from splitlearn_privacy.cut_model import Seen


def similarity(knowledge: Knowledge, seen_TD: Tensor) -> Tensor:
    """The cosine of the angle between each row and each token's embedding, [T, V]."""
    return normalize(seen_TD, dim=-1) @ normalize(knowledge.model.embeddings_VD, dim=-1).T


def read(knowledge: Knowledge, seen_NTD: Tensor) -> Guesses:
    """Needs the table of embeddings, and no training."""
    return Guesses(torch.stack([similarity(knowledge, seen_TD).topk(GUESSES).indices for seen_TD in seen_NTD]))


NEAREST_EMBEDDING = Attack(
    "nearest embedding",
    "arXiv 2004.00053",
    read,
    kinds=frozenset({Seen.OUTGOING, Seen.RETURNED}),
    compares_embeddings=True,
)
