"""Runs attacks on a grid of cuts and distortions.

Shapes: N texts, T tokens of each, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Final

from torch import Tensor

from llm_sepweight import Manifest
from splitlearn_privacy.attacks import ATTACKS, Attack, Guesses, Knowledge, Target
from splitlearn_privacy.costs import Costs, costs, plain_costs
from splitlearn_privacy.cut_model import CutModel, Seen
from splitlearn_privacy.errors import OtherModel, TextTooLong, UnknownToken
from splitlearn_privacy.scoring import Score
from splitlearn_privacy.texts import Texts
from splitlearn_privacy.timing import Timing
from splitlearn_privacy.traffic import Trace
from splitlearn_privacy.wire import Distortion

_LEAST_GAIN_NATS: Final = 1.0
"""A model that predicts no better than this below chance has random weights, or does not know such texts."""


@dataclass(frozen=True)
class Leak:
    """What one attack reads. `missed`: how often its shortlist lacked the token; None if it has none."""

    attack: str
    source: str
    seen: Seen
    target: Target
    score: Score
    missed: float | None


@dataclass(frozen=True)
class Cell:
    """One cut with one distortion. `leaks` is empty where the model does not know the texts."""

    layers: str
    distortion: Distortion
    costs: Costs
    leaks: tuple[Leak, ...]

    @property
    def worst(self) -> Leak | None:
        """The leak of what the client sent with the highest top-1 share; None if there is none."""
        return _worst(self.leaks)


@dataclass(frozen=True)
class Report:
    """All cells, and what they were measured on.

    Every number of a leak is a lower bound: an attacker may do better, and none of these attacks proves that others
    fail.
    """

    model: str
    worker: str
    text: str
    n_training: int
    n_test: int
    length: int
    knows_texts: bool
    cells: tuple[Cell, ...]
    traces: tuple[Trace, ...] = ()
    timings: tuple[Timing, ...] = ()

    @property
    def worst(self) -> Leak | None:
        """The worst leak of all cells; None if there is none."""
        return _worst(leak for cell in self.cells for leak in cell.leaks)


@dataclass(frozen=True)
class Worker:
    """What the worker knows before it sees the client's rows.

    `public` is a sepweight directory with the weights that it has, where the client's ends are others; None if it has
    the client's. Of texts that it knows it then has only rows of the public model, unless it `has_pairs`: texts with
    the rows that the client's ends made of them, as somebody gets who can ask the client.
    """

    public: Path | None = None
    has_pairs: bool = False

    def __str__(self) -> str:
        if self.public is None:
            return "has the weights of all layers"
        also = ", and texts with their rows" if self.has_pairs else ""
        return f"has the weights of {self.public.resolve().name}{also}"

    def model(self, model: CutModel) -> CutModel:
        """The model that it has, cut as the client's. Raises SepweightError, SplitError, OtherModel."""
        if self.public is None:
            return model
        if Manifest.read(self.public).n_layers == model.plan.n_layers:
            public = CutModel.load(self.public, model.plan.layers)
            if public.looks_like(model):
                return public
        raise OtherModel(
            f"{self.public} is not the model that the client's was trained from: layers, tokens, widths or dtype differ"
        )


@dataclass(frozen=True)
class Grid:
    """The cuts (layers of the trunk, such as "2-22"; None is the default cut) and the distortions to measure."""

    cuts: tuple[str | None, ...] = (None,)
    codecs: tuple[str, ...] = ("none",)
    noises: tuple[float, ...] = (0.0,)
    attacks: tuple[Attack, ...] = ATTACKS

    @property
    def distortions(self) -> Sequence[Distortion]:
        return [Distortion(codec, noise) for codec, noise in product(self.codecs, self.noises)]


def measure(
    folder: Path,
    texts: Texts,
    grid: Grid,
    worker: Worker = Worker(),
    *,
    name: str,
    source: str,
    seed: int = 0,
    step: Callable[[str], None],
) -> Report:
    """Measures every cell of the grid; minutes for each.

    Args:
        folder: a sepweight directory with all layers.
        name, source: how the report calls the model and the texts.
        step: called with a line before each piece of work.

    Raises:
        SepweightError, SplitError: files are missing, or the model cannot be cut so.
        TextTooLong: the texts do not fit into the model's context.
        UnknownToken: the model has no embedding for a token of the texts.
        OtherModel: the worker's weights are of another model.
    """
    cells: list[Cell] = []
    for cut in grid.cuts:
        model = CutModel.load(folder, cut)
        _check_texts(model, texts)
        known = worker.model(model)
        step(f"layers {model.plan.layers}: costs")
        plain = plain_costs(model, texts)
        knows_texts = plain.loss < math.log(len(model.embeddings_VD)) - _LEAST_GAIN_NATS
        truths = {Target.READ: texts.test_NT, Target.SAID: plain.said_NT}
        for distortion in grid.distortions:
            cell = Cell(model.plan.layers, distortion, costs(model, texts, distortion, plain, seed), ())
            if knows_texts:
                pair = _Pair(model, known, model if worker.has_pairs else known)
                found = _leaks(pair, texts, truths, distortion, grid.attacks, seed, step)
                cell = replace(cell, leaks=tuple(found))
            cells.append(cell)
    n_training, n_test = len(texts.training_NT), len(texts.test_NT)
    was_attacked = any(cell.leaks for cell in cells)
    return Report(name, str(worker), source, n_training, n_test, texts.test_NT.shape[1], was_attacked, tuple(cells))


@dataclass(frozen=True, eq=False)
class _Pair:
    """The client's model, the worker's, and the one that made the rows that the worker learns from."""

    client: CutModel
    worker: CutModel
    learned: CutModel


def _leaks(
    models: _Pair,
    texts: Texts,
    truths: dict[Target, Tensor],
    distortion: Distortion,
    attacks: Sequence[Attack],
    seed: int,
    step: Callable[[str], None],
) -> Iterator[Leak]:
    # other noise than on the test's rows
    known = models.learned.seen(texts.training_NT, distortion, seed)
    seen = models.client.seen(texts.test_NT, distortion, seed + len(texts.training_NT))
    for kind, attack in product(models.client.kinds, attacks):
        if attack.can_read(models.worker, kind):
            step(f"layers {models.client.plan.layers}, {distortion}: {attack.name} on {kind}")
            knowledge = Knowledge(models.worker, kind, texts.training_NT, known[kind], seed, distortion)
            guesses = attack.read(knowledge, seen[kind])
            # tokens that all texts begin with are not counted
            counted = slice(texts.n_common, None)
            truth_NT = truths[attack.target]
            score = Score.of(truth_NT[:, counted].numpy(), guesses.ids_NTK[:, counted].numpy())
            yield Leak(attack.name, attack.source, kind, attack.target, score, _missed(truth_NT, guesses, counted))


def _missed(truth_NT: Tensor, guesses: Guesses, counted: slice) -> float | None:
    if guesses.shortlist_NTC is None:
        return None
    is_listed_NT = (guesses.shortlist_NTC == truth_NT[..., None]).any(-1)
    return 1 - float(is_listed_NT[:, counted].double().mean())


def _worst(leaks: Iterable[Leak]) -> Leak | None:
    # whoever knows the top's weights says what the model says, however the client cuts it
    read = (leak for leak in leaks if leak.target is Target.READ)
    return max(read, key=lambda leak: leak.score.top_1.value, default=None)


def _check_texts(model: CutModel, texts: Texts) -> None:
    context, length = model.bottom.context_length, texts.test_NT.shape[1]
    n_embeddings, largest = len(model.embeddings_VD), int(max(texts.training_NT.max(), texts.test_NT.max()))
    if largest >= n_embeddings:
        raise UnknownToken(
            f"the texts have the token {largest}, and the model has embeddings for {n_embeddings} tokens; give texts "
            "without it, or the model the tokenizer that it was trained with"
        )
    if context is not None and length > context:
        raise TextTooLong(
            f"texts of {length} tokens do not fit into this model's context of {context} tokens; give a smaller "
            "--tokens"
        )
