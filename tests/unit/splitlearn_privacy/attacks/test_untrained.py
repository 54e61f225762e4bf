"""The attacks that need no training but candidate replay, which has a file of its own."""

import torch

from splitlearn_privacy.attacks import Knowledge, Target
from splitlearn_privacy.attacks.nearest_embedding import NEAREST_EMBEDDING
from splitlearn_privacy.attacks.public_top import PUBLIC_TOP
from splitlearn_privacy.cut_model import Seen
from support.attack_scene import Scene


def test_the_nearest_embedding_is_found_by_direction(scene: Scene) -> None:
    knowledge, _, wanted_NT = scene(Seen.OUTGOING)
    embeddings_NTD = 7 * knowledge.model.embeddings_VD[wanted_NT]

    found = NEAREST_EMBEDDING.read(knowledge, embeddings_NTD + 0.01).ids_NTK

    assert torch.equal(found[..., 0], wanted_NT)
    assert Seen.CACHE not in NEAREST_EMBEDDING.kinds


def test_the_public_top_says_what_the_model_says_next(scene: Scene) -> None:
    knowledge, seen, wanted_NT = scene(Seen.RETURNED)

    found = PUBLIC_TOP.read(knowledge, seen).ids_NTK

    assert torch.equal(found[..., 0], _said(knowledge, wanted_NT))
    assert PUBLIC_TOP.target is Target.SAID


def _said(knowledge: Knowledge, ids_NT: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(knowledge.model.predictions(ids_NT))).argmax(-1)
