"""What an attack knows, and what it finds.

Shapes: N texts, T tokens of each, W width of what is seen at a position, K guesses, C candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from torch import Tensor

from splitlearn_privacy.cut_model import CutModel, Seen
from splitlearn_privacy.wire import Distortion

GUESSES: Final = 5
"""K, how many tokens an attack names at each position."""


class Target(StrEnum):
    """The tokens that an attack looks for."""

    READ = "read"
    """Those that the client sent: the prompt, and the answer so far."""
    SAID = "said"
    """At each position the one that the model says next."""


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What the worker knows before it sees the texts: the model, whose weights are public, and texts of its own.

    `seen_NTW` is what it sees of `ids_NT`, distorted like the client's rows. `seed` is for attacks that are trained. It
    knows the codec of the client's `distortion`, and not its noise.
    """

    model: CutModel
    kind: Seen
    ids_NT: Tensor  # noqa: N815 - a shape
    seen_NTW: Tensor  # noqa: N815 - a shape
    seed: int
    distortion: Distortion


@dataclass(frozen=True, eq=False)
class Guesses:
    """The guesses at each position, `ids_NTK`, likeliest first.

    `shortlist_NTC` are the tokens that the attack tried at all; None if it tried the whole vocabulary.
    """

    ids_NTK: Tensor  # noqa: N815 - a shape
    shortlist_NTC: Tensor | None = None  # noqa: N815 - a shape


@dataclass(frozen=True)
class Attack:
    """A way to read tokens off what a worker sees.

    `source` is the paper that describes it or one like it. `read` maps what is known, and what is seen of the texts to
    read [N, T, W], to guesses. `kinds` are those that it can read. One that `compares_embeddings` reads no rows of
    another width.
    """

    name: str
    source: str
    read: Callable[[Knowledge, Tensor], Guesses]
    kinds: frozenset[Seen] = frozenset(Seen)
    target: Target = Target.READ
    compares_embeddings: bool = False

    def can_read(self, model: CutModel, kind: Seen) -> bool:
        """Whether it can read what a worker of this model sees so."""
        return kind in self.kinds and (model.rows_fit_embeddings or not self.compares_embeddings)
