"""What a load test sends and when: levels, prompts, lengths, arrivals. Values in, values out; no clock, no network.

Everything random comes from the seed, so that two runs with the same settings send the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

PromptKind = Literal["text", "ids"]
LoadKind = Literal["concurrency", "rate"]

# Each word is one token, with the blank before it, for most tokenizers trained on English.
_COMMON: Final = (
    "the of and to in is that it was for on are as with his they at be this from have or by one had not but what "
    "all were when we there can an your which their said if do will each about how up out them then she many some "
    "so these would other into has more her two like him see time could no make than first been its who now people "
    "my made over did down only way find use may water long little very after words called just where most know get "
    "through back much before go good new write our used me man too any day same right look think also around "
    "another came come work three word must because does part even place well such here take why things help put "
    "years different away again off went old number"
)
WORDS: Final = tuple(_COMMON.split())
# These exist in every vocabulary, and the special tokens of the usual ones lie elsewhere.
_IDS: Final = range(100, 250)


@dataclass(frozen=True)
class Span:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@dataclass(frozen=True)
class Load:
    """How hard one level presses: so many requests at a time, or so many arrivals a second."""

    kind: LoadKind
    value: float

    def __str__(self) -> str:
        return f"{self.kind} {self.value:g}"


@dataclass(frozen=True)
class PlannedRequest:
    """One request. `due` is in seconds from the level's start; None: as soon as another one has ended."""

    number: int
    prompt: str | tuple[int, ...]
    max_tokens: int
    due: float | None = None


@dataclass(frozen=True)
class Workload:
    """What the requests of every level look like. Lengths are in tokens and drawn uniformly."""

    requests: int
    warmup: int
    prompt_tokens: Span
    output_tokens: Span
    prompt_kind: PromptKind = "text"
    seed: int = 0


@dataclass(frozen=True)
class Level:
    """One measurement: `warmup` is sent first and not counted."""

    load: Load
    warmup: tuple[PlannedRequest, ...]
    requests: tuple[PlannedRequest, ...]


def parse_span(text: str) -> Span:
    """A number or LOW-HIGH. Raises ValueError for anything else, for 0 and for LOW above HIGH."""
    low, dash, high = text.partition("-")
    try:
        span = Span(int(low), int(high if dash else low))
    except ValueError:
        raise ValueError("expected a number or LOW-HIGH") from None
    if not 1 <= span.low <= span.high:
        raise ValueError("expected at least 1, and LOW not above HIGH")
    return span


def parse_concurrency(text: str) -> tuple[Load, ...]:
    """Whole numbers from 1 on, with commas between. Raises ValueError."""
    try:
        values = [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError("expected whole numbers with commas between, such as 1,4,16") from None
    if min(values) < 1:
        raise ValueError("expected numbers from 1 on")
    return tuple(Load("concurrency", value) for value in values)


def parse_rates(text: str) -> tuple[Load, ...]:
    """Arrivals a second, above 0, with commas between. Raises ValueError."""
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        raise ValueError("expected numbers with commas between, such as 0.5,1,2") from None
    if not all(0 < value < math.inf for value in values):
        raise ValueError("expected numbers above 0")
    return tuple(Load("rate", value) for value in values)


def plan_levels(loads: Sequence[Load], workload: Workload) -> tuple[Level, ...]:
    """Every level gets the same lengths, so that levels compare, and other words, so that no server knows a prompt."""
    return tuple(_level(load, workload, place) for place, load in enumerate(loads))


def arrivals(rate: float, count: int, random: Random) -> list[float]:
    """Times of a Poisson process in seconds, ascending: gaps are exponential with mean 1 / `rate`."""
    times, now = [], 0.0
    for _ in range(count):
        now += random.expovariate(rate)
        times.append(now)
    return times


def make_prompt(kind: PromptKind, tokens: int, random: Random) -> str | tuple[int, ...]:
    """`tokens` common words, or as many token ids. How many tokens the words become is the server's to say."""
    if kind == "ids":
        return tuple(random.choices(_IDS, k=tokens))
    return " ".join(random.choices(WORDS, k=tokens))


def _level(load: Load, workload: Workload, place: int) -> Level:
    due = None
    if load.kind == "rate":
        due = arrivals(load.value, workload.requests, Random(f"{workload.seed} arrivals {place}"))
    return Level(
        load,
        warmup=_requests(workload, workload.warmup, f"warmup {place}", None),
        requests=_requests(workload, workload.requests, f"requests {place}", due),
    )


def _requests(workload: Workload, count: int, purpose: str, due: Sequence[float] | None) -> tuple[PlannedRequest, ...]:
    lengths = Random(f"{workload.seed} lengths")
    words = Random(f"{workload.seed} {purpose}")
    planned = []
    for number in range(count):
        prompt_tokens = lengths.randint(workload.prompt_tokens.low, workload.prompt_tokens.high)
        max_tokens = lengths.randint(workload.output_tokens.low, workload.output_tokens.high)
        prompt = make_prompt(workload.prompt_kind, prompt_tokens, words)
        planned.append(PlannedRequest(number, prompt, max_tokens, due[number] if due else None))
    return tuple(planned)
