"""Every way to hold weights, keys and values, compared with a model as it is: for benchmarks of quality.

Shapes: T tokens of a text, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional
from tqdm import tqdm

from splitlearn.backends.cpu.packing import pack, takes_int4
from splitlearn.calibration.directory import Rounding, quantize
from splitlearn.checkpoints.load import load_part
from splitlearn.choices import KVCacheDtype, Quantization
from splitlearn.model.part import Part
from splitlearn.runner.interface import Runner, SequenceInput
from splitlearn.runner.select import runner_for

_TEXTS_AT_ONCE: Final = 32
_NEAREST: Final = "int4, nearest"

Text = tuple[list[int], int]
"""Token ids, and where that begins which the model is asked for."""


@dataclass(frozen=True)
class Weights:
    """How weights are held: as a directory has them, or one that `splitlearn quantize` made of it."""

    title: str
    quantization: Quantization
    rounding: Rounding | None = None


WEIGHTS: Final = (
    Weights("none", "none"),
    Weights("int8", "int8"),
    Weights(_NEAREST, "int4"),
    Weights("int4, quantize --symmetric", "int4", Rounding(zero_points=False)),
    Weights("int4, quantize", "int4", Rounding()),
)
KEYS_AND_VALUES: Final[Sequence[KVCacheDtype]] = ("auto", "int8")


@dataclass(frozen=True)
class Quality:
    """Of all texts, counted by tokens.

    Attributes:
        asked: perplexity of what the model is asked for.
        whole: perplexity of all tokens but the first of each text.
        divergence: the mean KL divergence, in nats, of the next token's distribution from that of the model as it is.
    """

    asked: float
    whole: float
    divergence: float


class Compared:
    """A model in bf16, and directories in `folder` that are made of it."""

    def __init__(self, source: Path, folder: Path, prompts: Sequence[Sequence[int]]) -> None:
        self._paths: dict[Weights, Path] = {}
        for weights in WEIGHTS:
            self._paths[weights] = source
            if weights.rounding is not None:
                self._paths[weights] = folder / weights.title.replace(" ", "_")
                done = quantize(source, self._paths[weights], prompts, weights.rounding, overwrite=True)
                print(weights.title, *done.notes(), sep="\n  ", flush=True)

    def part(self, weights: Weights) -> Part:
        """The whole model, packed."""
        part = load_part(self._paths[weights], "f", dtype="bfloat16", keep_int4=takes_int4(weights.quantization))
        pack(part, weights.quantization)
        return part

    def qualities(self, texts: Sequence[Text]) -> Iterator[tuple[Weights, KVCacheDtype, Quality]]:
        """Of all options, through our runner as the services use it."""
        exact: Runner[Any] = runner_for(self.part(WEIGHTS[0]))
        for kv in KEYS_AND_VALUES:
            for weights in WEIGHTS:
                runner: Runner[Any] = runner_for(self.part(weights), None, kv)
                yield weights, kv, _quality(exact, runner, texts, f"{weights.title}, {kv}")


@torch.inference_mode()
def _quality(exact: Runner[Any], runner: Runner[Any], texts: Sequence[Text], title: str) -> Quality:
    sums, counts = [0.0, 0.0, 0.0], [0, 0]
    for first in tqdm(range(0, len(texts), _TEXTS_AT_ONCE), desc=title):
        some = texts[first : first + _TEXTS_AT_ONCE]
        ids = [ids for ids, _ in some]
        both = zip(some, _logits(exact, ids), _logits(runner, ids), strict=True)
        for (ids_T, begin), exact_TV, logits_TV in both:
            loss_T = functional.cross_entropy(logits_TV[:-1], torch.tensor(ids_T[1:]), reduction="none").double()
            divergence_TV = functional.kl_div(
                logits_TV.log_softmax(1), exact_TV.log_softmax(1), reduction="none", log_target=True
            )
            for i, own_T in enumerate((loss_T[begin - 1 :], loss_T, divergence_TV[:-1].sum(1).double())):
                sums[i] += own_T.sum().item()
            counts = [counts[0] + len(loss_T[begin - 1 :]), counts[1] + len(loss_T)]
    return Quality(math.exp(sums[0] / counts[0]), math.exp(sums[1] / counts[1]), sums[2] / counts[1])


def _logits(runner: Runner[Any], texts: Sequence[list[int]]) -> list[torch.Tensor]:
    inputs = [SequenceInput(runner.new_kv(len(ids)), 0, torch.tensor(ids), "all") for ids in texts]
    return [logits_TV.float() for logits_TV in runner.run(inputs)]
