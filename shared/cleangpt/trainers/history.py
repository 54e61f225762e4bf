"""The measurements of a training so far. Checkpoints contain them, and files and plots are made from them."""

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """The loss on the validation batches (nats per learned token) after `step` steps."""

    step: int
    loss: float


@dataclass
class History:
    """`losses` (nats per learned token), `rates` and `gradient_norms` have one entry per finished step.

    So has `tokens`: how many ids the step's batches had, padding included. A gradient's norm is that before clipping.
    `skipped` has the numbers of the steps that changed no weights, because their gradient was not finite. `seconds` is
    the total wall time of all runs.
    """

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    seconds: float = 0.0
    gradient_norms: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)

    @property
    def step(self) -> int:
        """How many steps are finished."""
        return len(self.losses)

    @property
    def best(self) -> Evaluation | None:
        """The earliest evaluation with the lowest loss that is a number; None if there was none."""
        measured = [each for each in self.evaluations if math.isfinite(each.loss)]
        return min(measured, key=lambda each: each.loss, default=None)

    def to_dict(self) -> dict[str, Any]:
        """The history as plain values, for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> "History":
        """The history from the values of `to_dict`. Raises KeyError or TypeError for other values."""
        return cls(
            losses=list(found["losses"]),
            rates=list(found["rates"]),
            gradient_norms=list(found["gradient_norms"]),
            skipped=list(found["skipped"]),
            evaluations=[Evaluation(**each) for each in found["evaluations"]],
            tokens=list(found["tokens"]),
            seconds=float(found["seconds"]),
        )

    def to_json(self) -> str:
        """The whole history as one JSON object."""
        return json.dumps(self.to_dict()) + "\n"

    def to_csv(self) -> str:
        """One line per step; `validation_loss` is empty where it was not measured."""
        validation = {each.step: each.loss for each in self.evaluations}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("step", "loss", "learning_rate", "validation_loss", "gradient_norm", "tokens"))
        measured = zip(self.losses, self.rates, self.gradient_norms, self.tokens, strict=True)
        for step, (loss, rate, norm, tokens) in enumerate(measured, start=1):
            writer.writerow((step, loss, rate, validation.get(step, ""), norm, tokens))
        return text.getvalue()
