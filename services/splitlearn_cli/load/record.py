"""Records of requests and levels. Times are in seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from splitlearn_cli.load.plan import Load


@dataclass(frozen=True)
class RequestFailure:
    """Why a request has no complete answer. Failures are counted by `kind`; `retry_after` is the header's text."""

    kind: str
    message: str
    retry_after: str | None = None


@dataclass(frozen=True)
class Record:
    """One request. `sent` and `due` are measured from the level's start, other times from `sent`.

    `ttft` is None without any text, `prompt_tokens` if the server does not report it. `itl` has the times between
    chunks of text. A failed request keeps what it received, and counts only as a failure.
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
        """Seconds per output token after the first; correct even if a chunk has several tokens."""
        if self.ttft is None or self.output_tokens < 2:
            return None
        return (self.e2e - self.ttft) / (self.output_tokens - 1)


@dataclass
class MeasuredLevel:
    """A level's records in the order in which the requests ended. Filled while it is measured."""

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
    """All levels of a run. Filled while it is measured, so that an interrupted run keeps its results."""

    model: str = ""
    levels: list[MeasuredLevel] = field(default_factory=list)

    @property
    def begun(self) -> list[MeasuredLevel]:
        """The levels with at least one ended request."""
        return [level for level in self.levels if level.records]

    @property
    def answered(self) -> bool:
        """Whether any request succeeded."""
        return any(record.failure is None for level in self.levels for record in level.records)
