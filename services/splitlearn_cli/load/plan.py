"""Plans a load test: levels, prompts, lengths and arrival times. Pure: no clock, no network.

All randomness comes from the seed, so that runs with equal settings send equal requests.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

PromptKind = Literal["text", "ids"]
LoadKind = Literal["concurrency", "rate"]

# Each word with the space before it is one token in most tokenizers for English.
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
# These ids exist in every vocabulary, and are no special tokens in common ones.
_IDS: Final = range(100, 250)


@dataclass(frozen=True)
class Span:
    """The integers from `low` to `high`, inclusive."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@dataclass(frozen=True)
class Load:
    """The load of one level: requests in flight, or arrivals per second."""

    kind: LoadKind
    value: float

    def __str__(self) -> str:
        return f"{self.kind} {self.value:g}"


@dataclass(frozen=True)
class PlannedRequest:
    """One request. `due` is in seconds from the level's start; None: when another request has ended."""

    number: int
    prompt: str | tuple[int, ...]
    max_tokens: int
    due: float | None = None


@dataclass(frozen=True)
class Workload:
    """The requests of a level. Lengths are in tokens, and drawn uniformly."""

    requests: int
    warmup: int
    prompt_tokens: Span
    output_tokens: Span
    prompt_kind: PromptKind = "text"
    seed: int = 0


@dataclass(frozen=True)
class Level:
    """One measurement; the requests in `warmup` are sent first, and not measured."""

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
    """Integers of at least 1, separated by commas. Raises ValueError."""
    try:
        values = [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError("expected integers separated by commas, such as 1,4,16") from None
    if min(values) < 1:
        raise ValueError("expected numbers of at least 1")
    return tuple(Load("concurrency", value) for value in values)


def parse_rates(text: str) -> tuple[Load, ...]:
    """Arrivals per second, above 0, separated by commas. Raises ValueError."""
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        raise ValueError("expected numbers separated by commas, such as 0.5,1,2") from None
    if not all(0 < value < math.inf for value in values):
        raise ValueError("expected numbers above 0")
    return tuple(Load("rate", value) for value in values)


def plan_levels(loads: Sequence[Load], workload: Workload) -> tuple[Level, ...]:
    """The levels: with equal lengths, so that they compare, and different words, so that no prompt is cached."""
    return tuple(_level(load, workload, place) for place, load in enumerate(loads))


def arrivals(rate: float, count: int, random: Random) -> list[float]:
    """Ascending times of a Poisson process, in seconds: gaps are exponential with mean 1 / `rate`."""
    times, now = [], 0.0
    for _ in range(count):
        now += random.expovariate(rate)
        times.append(now)
    return times


def make_prompt(kind: PromptKind, tokens: int, random: Random) -> str | tuple[int, ...]:
    """`tokens` common words, or as many token ids. The server's tokenizer decides how many tokens the words are."""
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
