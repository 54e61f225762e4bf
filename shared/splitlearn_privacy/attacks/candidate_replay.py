"""Runs every token through the public layers behind the tokens found so far, and keeps those that come nearest.

Shapes: T tokens of a text, W width of what is seen at a position, D hidden size, C candidates, V vocabulary, K guesses.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from splitlearn.model.cache import PartCache
from splitlearn_privacy.attacks import nearest_embedding, probes
from splitlearn_privacy.attacks.attack import GUESSES, Attack, Guesses, Knowledge

MOST_CANDIDATES: Final = 4096
"""A larger vocabulary is not tried whole: first other attacks choose."""
SHORTLIST: Final = 512


def read(knowledge: Knowledge, seen_NTW: Tensor) -> Guesses:
    """Needs the weights of bottom and trunk, and for a vocabulary of more than 4,096 tokens a shortlist of 512."""
    vocabulary = len(knowledge.model.embeddings_VD)
    if vocabulary <= MOST_CANDIDATES:
        every_C = torch.arange(vocabulary)
        return Guesses(torch.stack([_read_text(knowledge, seen_TW, every_C) for seen_TW in seen_NTW]))
    shortlist_NTC = _shortlist(knowledge, seen_NTW)
    found = [_read_text(knowledge, *each) for each in zip(seen_NTW, shortlist_NTC, strict=True)]
    return Guesses(torch.stack(found), shortlist_NTC)


@torch.no_grad()
def _read_text(knowledge: Knowledge, seen_TW: Tensor, candidates: Tensor) -> Tensor:
    """The guesses [T, K]; `candidates` are [C] for all positions, or [T, C]."""
    replay = _Replay(knowledge)
    found: list[Tensor] = []
    for position, seen_W in enumerate(seen_TW):
        candidates_C = candidates if candidates.dim() == 1 else candidates[position]
        distance_C = (replay.seen_of(candidates_C) - seen_W).square().sum(-1)
        nearest_K = distance_C.topk(GUESSES, largest=False).indices
        replay.keep(int(nearest_K[0]))
        found.append(candidates_C[nearest_K])
    return torch.stack(found)


class _Replay:
    """One text from the beginning, with each candidate in a row of a batch at the position that is looked for."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._model, self._kind = knowledge.model, knowledge.kind
        self._coded = knowledge.distortion.coded
        worker_part = self._model.worker_part(self._kind)
        self._parts = [self._model.bottom, *([worker_part] if worker_part is not None else [])]
        self._caches = [part.new_cache() for part in self._parts]
        self._ids = torch.empty(0, dtype=torch.long)
        self._candidates_C = self._ids
        self._can_continue = all(part.keeps_plain_kv for part in self._parts)

    def seen_of(self, candidates_C: Tensor) -> Tensor:
        """What a worker would see of each candidate at the next position, [C, W]."""
        self._candidates_C = candidates_C
        ids_C1 = candidates_C[:, None]
        if self._can_continue:
            for cache in self._caches if len(self._ids) else ():
                cache.batch_repeat_interleave(len(candidates_C))
            return self._run(ids_C1, self._caches)[:, -1]
        # what keeps another state than keys and values begins anew
        whole_CT = torch.cat([self._ids.expand(len(candidates_C), -1), ids_C1], dim=1)
        return self._run(whole_CT, [part.new_cache() for part in self._parts])[:, -1]

    def keep(self, index: int) -> None:
        """The candidate at `index` is what stands at this position."""
        self._ids = torch.cat([self._ids, self._candidates_C[index : index + 1]])
        if self._can_continue:
            for cache in self._caches:
                cache.batch_select_indices(torch.tensor([index]))

    def _run(self, ids_CT: Tensor, caches: Sequence[PartCache]) -> Tensor:
        # rounded as the client's rows are, so that the right candidate's is the same
        sent_CTD = self._coded(self._model.sent(ids_CT, caches[0]))
        return self._model.of_sent(self._kind, sent_CTD, caches[-1])


@torch.no_grad()
def _shortlist(knowledge: Knowledge, seen_NTW: Tensor) -> Tensor:
    """The candidates [N, T, C] that nearest embedding and linear probe hold for likeliest, a half each.

    Where embeddings cannot be compared, the probe names all.
    """
    probe = probes.LINEAR.trained(knowledge)
    found: list[Tensor] = []
    for seen_TW in seen_NTW:
        scores_TV = probe(seen_TW)
        if nearest_embedding.NEAREST_EMBEDDING.can_read(knowledge.model, knowledge.kind):
            nearest_TC = nearest_embedding.similarity(knowledge, seen_TW).topk(SHORTLIST // 2).indices
            scores_TV.scatter_(-1, nearest_TC, torch.inf)
        found.append(scores_TV.topk(SHORTLIST).indices)
    return torch.stack(found)


CANDIDATE_REPLAY = Attack("candidate replay", "arXiv 2510.15511", read)
