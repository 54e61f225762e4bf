"""What a worker knows, and texts for it to read: scenes for tests of attacks."""

from collections.abc import Callable

import torch

from splitlearn_privacy.attacks import Knowledge
from splitlearn_privacy.cut_model import CutModel, Seen
from splitlearn_privacy.texts import Texts
from splitlearn_privacy.wire import Distortion
from support.tiny_models import VOCABULARY

N_TRAINING, N_TEST, LENGTH = 96, 3, 8

Scene = Callable[..., tuple[Knowledge, torch.Tensor, torch.Tensor]]


def ids(n_texts: int, seed: int, most: int = VOCABULARY, length: int = LENGTH) -> torch.Tensor:
    """Token ids [n_texts, length] of at most `most` kinds."""
    return torch.randint(most, (n_texts, length), generator=torch.Generator().manual_seed(seed))


def scene_of(
    model: CutModel, kind: Seen, distortion: Distortion | None = None, n_training: int = 1, most: int = VOCABULARY
) -> tuple[Knowledge, torch.Tensor, torch.Tensor]:
    """What is known, what is seen of the texts to read, and these texts' ids."""
    distortion = distortion or Distortion()
    known_NT, wanted_NT = ids(n_training, 1, most), ids(N_TEST, 2, most)
    known = model.seen(known_NT, distortion, 0)[kind]
    return Knowledge(model, kind, known_NT, known, 0, distortion), model.seen(wanted_NT, distortion, 1)[kind], wanted_NT


def texts(n_training: int, n_test: int, length: int = LENGTH) -> Texts:
    """Random texts, all of which a model is expected to predict."""
    test_NT = ids(n_test, 1, length=length)
    return Texts(ids(n_training, 0, length=length), test_NT, torch.ones_like(test_NT, dtype=torch.bool))
