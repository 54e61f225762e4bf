"""What is kept of each request and each level; plain values, in seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from splitlearn_cli.load.plan import Load


@dataclass(frozen=True)
class RequestFailure:
    """Why a request has no whole answer. `kind` is what failures are counted by; `retry_after` is the header."""

    kind: str
    message: str
    retry_after: str | None = None


@dataclass(frozen=True)
class Record:
    """One request. Times are seconds; `sent` and `due` count from the level's start, the others from `sent`.

    `ttft` is None where no text came, `prompt_tokens` where the server does not tell. `itl` holds the times between
    chunks of text. A failed request keeps what it got until then, and enters no statistics but the count of failures.
    """

    number: int
    sent: float
    due: float | None
    e2e: float
    ttft: float | None = None
    itl: tuple[float, ...] = ()
    max_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens: int | None = None
    finish_reason: str | None = None
    failure: RequestFailure | None = None

    @property
    def tpot(self) -> float | None:
        """Seconds for each output token after the first; also right where a chunk holds several tokens."""
        if self.ttft is None or self.output_tokens < 2:
            return None
        return (self.e2e - self.ttft) / (self.output_tokens - 1)


@dataclass
class MeasuredLevel:
    """A level's records in the order of their ends; grows while it is measured."""

    load: Load
    planned: int
    records: list[Record] = field(default_factory=list)

    @property
    def interrupted(self) -> bool:
        return len(self.records) < self.planned

    @property
    def failures(self) -> Sequence[RequestFailure]:
        return [record.failure for record in self.records if record.failure is not None]


@dataclass
class MeasuredRun:
    """Everything measured against one model; grows while it is measured, so that an interrupted run keeps it."""

    model: str = ""
    levels: list[MeasuredLevel] = field(default_factory=list)

    @property
    def begun(self) -> list[MeasuredLevel]:
        """The levels of which at least one request has ended."""
        return [level for level in self.levels if level.records]

    @property
    def answered(self) -> bool:
        """Whether any request was answered whole."""
        return any(record.failure is None for level in self.levels for record in level.records)
