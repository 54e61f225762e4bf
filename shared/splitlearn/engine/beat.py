"""When the next step begins, and how many rows of prompts it takes. Plain numbers; times in seconds, on one clock."""

from dataclasses import dataclass, field

from splitlearn.engine.gathering import Gathering
from splitlearn.engine.pace import Pace

# Whoever decoded so many seconds ago is expected to go on: the next rows are with the client.
_EXPECTED_AGAIN = 1.0


@dataclass(frozen=True)
class Moment:
    """What an engine knows before a step.

    Attributes:
        now: on the clock of the gathering.
        n_ready: sessions at hand that decode.
        n_prompts: sessions at hand with rows of a prompt.
        since: from when on those who are ready are kept waiting; None if nobody is.
        next_due: seconds until the device is needed for somebody's next token; None if nobody is due.
        keeps_free: rows of prompts run beside tokens only, not between them.
    """

    now: float
    n_ready: int
    n_prompts: int
    since: float | None = None
    next_due: float | None = None
    keeps_free: bool = False


@dataclass(frozen=True)
class Start:
    """Begin after `wait` seconds if nobody comes before, with at most `prompt_rows` rows of prompts."""

    wait: float
    prompt_rows: int


@dataclass
class Beat:
    """One engine's.

    Attributes:
        pace: what steps and rows take.
        in_batches: several sessions share a step, so that it pays to wait for them.
        gathering: who is away, and for how long usually.
    """

    pace: Pace
    in_batches: bool
    gathering: Gathering = field(default_factory=Gathering)

    def prompt_rows(self, moment: Moment) -> int:
        """The most rows of prompts for a step that begins now. None at all where a step of prompts alone would make
        those wait who decode and are about to come."""
        n_decoding = moment.n_ready + self.gathering.n_away(moment.now, _EXPECTED_AGAIN)
        seconds_left = None if moment.n_ready else moment.next_due
        if moment.keeps_free and seconds_left is not None and seconds_left < _EXPECTED_AGAIN:
            seconds_left = 0.0
        return self.pace.prompt_rows(moment.n_prompts, n_decoding, seconds_left)

    def start(self, moment: Moment) -> Start:
        """How long to wait for sessions that are about to decode.

        A step of few rows takes nearly as long as one of many, because it reads all the weights. So the first who come
        wait for the others, at most as long as a step takes: who is left behind would wait for a whole one, in each
        round again. And prompts wait for those with whom they can ride along.
        """
        rows = self.prompt_rows(moment)
        if not moment.n_ready:
            return Start(0.0 if rows else moment.next_due or 0.0, rows)
        if not self.in_batches:
            return Start(0.0, rows)
        latest = (moment.since or moment.now) + self.pace.seconds(rows if moment.n_prompts else 0)
        return Start(self.gathering.wait(moment.now, latest), rows)
