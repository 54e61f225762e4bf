"""The measurements of one request: tokens, times and bytes."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from splitlearn_comm import RequestContext


@dataclass(frozen=True)
class Failover:
    """A session moved to another replica of the trunk, or back to the same one.

    Attributes:
        reason: the class of the error that began it.
        detection_seconds: from the last sign of life, or from the frame that got no answer, to the error; of all
            replicas that failed before the next token.
        resumption_seconds: the rest of the time from the first error to the next token.
    """

    reason: str
    detection_seconds: float
    resumption_seconds: float


@dataclass(frozen=True)
class Phases:
    """The time of a request that got a token, in seconds, from its start to its last token. They add up to `e2e`."""

    queue: float
    prefill: float
    decode: float

    @property
    def time_to_first_token(self) -> float:
        return self.queue + self.prefill

    @property
    def e2e(self) -> float:
        return self.queue + self.prefill + self.decode


@dataclass
class Report:
    """Filled while the request runs. Times are in seconds."""

    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Names the session in the logs of both ends; the same on every replica."""
    began: float = field(default_factory=time.perf_counter)
    context: RequestContext = field(default_factory=RequestContext)
    """What the session's stages get to know of the request."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reused_tokens: int = 0
    """Prompt tokens whose rows all three parts had cached."""
    replays: int = 0
    """How often all rows were sent again because a part had lost them."""
    failovers: list[Failover] = field(default_factory=list)
    drafts: int = 0
    """Trips with guesses at the next tokens."""
    draft_tokens: int = 0
    """Guesses in them."""
    accepted_tokens: int = 0
    """Guesses that were right."""
    queue_seconds: float = 0.0
    """How long the first rows waited to be run, in bottom, trunk and top together."""
    first_token: float | None = None
    last_token: float | None = None
    wire_bytes_sent: int = 0
    wire_bytes_received: int = 0
    round_trip: float | None = None
    """Of the newest token's last frame, without the trunk's queue and compute time; None if others were on their way
    with it."""
    timings: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("bottom", "wire", "queue", "trunk", "top", "sampling"), 0.0)
    )

    @property
    def computing_seconds(self) -> float:
        """In all three parts together."""
        return sum(self.timings[station] for station in ("bottom", "trunk", "top"))

    @property
    def n_faults(self) -> int:
        """How often something went wrong on the way, and was mended."""
        return self.replays + len(self.failovers)

    def guessed(self, n_guesses: int, n_right: int) -> None:
        """Counts a trip with so many guesses, of which the first `n_right` were right."""
        self.drafts += n_guesses > 0
        self.draft_tokens += n_guesses
        self.accepted_tokens += n_right

    @property
    def time_to_first_token(self) -> float:
        return (self.first_token or time.perf_counter()) - self.began

    @property
    def phases(self) -> Phases | None:
        """None before the first token."""
        if self.first_token is None or self.last_token is None:
            return None
        waited, decode = self.first_token - self.began, self.last_token - self.first_token
        # of the first rows alone, whose way through the parts has no overlap
        queue = min(self.queue_seconds, waited)
        return Phases(queue, waited - queue, decode)

    @property
    def tokens_per_second(self) -> float:
        """The rate of the tokens after the first."""
        # several answers of one token have their tokens at once
        if self.first_token is None or self.last_token in (None, self.first_token) or self.completion_tokens < 2:
            return 0.0
        return (self.completion_tokens - 1) / (self.last_token - self.first_token)


def together(reports: Sequence[Report]) -> Report:
    """The sum of several generations for one request: a prompt and its answers, or prompts in turn."""
    first = reports[0]
    whole = Report(first.session, first.began, first.context, first_token=first.first_token)
    whole.queue_seconds = first.queue_seconds
    for report in reports:
        whole.prompt_tokens += report.prompt_tokens
        whole.completion_tokens += report.completion_tokens
        # several answers to one prompt begin with its rows, and count none of its tokens
        whole.reused_tokens += min(report.reused_tokens, report.prompt_tokens)
        whole.replays += report.replays
        whole.failovers += report.failovers
        whole.drafts += report.drafts
        whole.draft_tokens += report.draft_tokens
        whole.accepted_tokens += report.accepted_tokens
        whole.last_token = max(filter(None, (whole.last_token, report.last_token)), default=None)
        whole.wire_bytes_sent += report.wire_bytes_sent
        whole.wire_bytes_received += report.wire_bytes_received
        for station, seconds in report.timings.items():
            whole.timings[station] += seconds
    return whole
