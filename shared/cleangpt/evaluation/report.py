"""The results of an evaluation as one value, with output as JSON and as a table."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cleangpt.evaluation.hidden_errors import BlockError
from cleangpt.evaluation.predictions import Agreement, Likelihood
from cleangpt.writing import replacing

_COLUMN = 56


@dataclass(frozen=True)
class Figures:
    """The figures of one model. None means not measured or not known here, such as the size of a remote trunk."""

    name: str
    likelihood: Likelihood
    bits_per_byte: float
    parameters: int | None = None
    bytes: int | None = None
    tokens_per_second: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values."""
        found = {name: value for name, value in asdict(self).items() if name != "likelihood"}
        likelihood = self.likelihood
        return {
            **found,
            "tokens": likelihood.tokens,
            "loss": likelihood.loss,
            "perplexity": likelihood.perplexity,
            "loss_by_position": [
                nats / count if count else None for nats, count in zip(likelihood.nats, likelihood.counts, strict=True)
            ],
        }


@dataclass(frozen=True)
class Comparison:
    """The greedy continuations of one prompt by both models."""

    prompt: str
    student: str
    teacher: str | None = None


@dataclass(frozen=True)
class Report:
    """All results for a model on one text, with those of its teacher if it has one.

    `note` says what the numbers do not, such as that the model was trained on the text.
    """

    text: str
    student: Figures
    teacher: Figures | None = None
    agreement: Agreement | None = None
    blocks: tuple[BlockError, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, as written to the JSON file."""
        return {
            "text": self.text,
            "note": self.note,
            "student": self.student.to_dict(),
            "teacher": self.teacher.to_dict() if self.teacher else None,
            "agreement": asdict(self.agreement) if self.agreement else None,
            "blocks": [asdict(each) for each in self.blocks],
            "comparisons": [asdict(each) for each in self.comparisons],
        }

    def write_json(self, file: Path) -> None:
        """Writes the report as JSON; an infinite perplexity becomes null. Raises NotWrittenError."""
        found = _finite(self.to_dict())
        with replacing(file) as partial:
            partial.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def table(self) -> str:
        """The report as text for a terminal."""
        found = [f"{self.text}: {self.student.likelihood.tokens:,} tokens predicted"]
        found += [*([f"note: {self.note}"] if self.note else []), "", *self._figures()]
        if self.agreement is not None:
            found += ["", *_agreement(self.agreement)]
        if self.blocks:
            found += ["", *_blocks(self.blocks)]
        for each in self.comparisons:
            found += ["", *_side_by_side(each)]
        return "\n".join(found)

    def _figures(self) -> list[str]:
        models = [self.student, *([self.teacher] if self.teacher else [])]
        rows = [
            ("", [each.name for each in models]),
            ("loss, nats per token", [f"{each.likelihood.loss:.4f}" for each in models]),
            ("perplexity", [f"{each.likelihood.perplexity:,.2f}" for each in models]),
            ("bits per byte", [f"{each.bits_per_byte:.4f}" for each in models]),
            ("parameters", [_count(each.parameters) for each in models]),
            ("bytes", [_count(each.bytes) for each in models]),
            ("tokens/s, one text", [_number(each.tokens_per_second) for each in models]),
        ]
        return _columns(rows)


def _agreement(found: Agreement) -> list[str]:
    rows = [
        ("top-1 agreement with the teacher", [f"{100 * found.top_1:.2f} %"]),
        ("top-5 agreement with the teacher", [f"{100 * found.top_5:.2f} %"]),
        ("divergence from the teacher, nats", [f"{found.divergence:.4f}"]),
    ]
    return _columns(rows)


def _blocks(blocks: Sequence[BlockError]) -> list[str]:
    rows = [("block", ["teacher's block", "relative error", "cosine"])]
    rows += [(str(each.student), [each.target, f"{each.relative_mse:.4f}", f"{each.cosine:.4f}"]) for each in blocks]
    note = ["unequal widths: read through the best linear map"] if any(each.is_mapped for each in blocks) else []
    return [*_columns(rows), *note]


def _side_by_side(comparison: Comparison) -> list[str]:
    head = f"prompt: {comparison.prompt.strip()}"
    own = _wrapped(comparison.student)
    if comparison.teacher is None:
        return [head, *own]
    others = _wrapped(comparison.teacher)
    height = max(len(own), len(others))
    left, right = (["student", *own, *[""] * (height - len(own))], ["teacher", *others, *[""] * (height - len(others))])
    return [head, *(f"{a:<{_COLUMN}}  {b}".rstrip() for a, b in zip(left, right, strict=True))]


def _wrapped(text: str) -> list[str]:
    return [part for line in text.strip().splitlines() for part in textwrap.wrap(line, _COLUMN) or [""]] or [""]


def _columns(rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    first = max(len(name) for name, _ in rows)
    widths = [max(map(len, cells)) for cells in zip(*(cells for _, cells in rows), strict=True)]
    return [
        f"{name:<{first}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in rows
    ]


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value
