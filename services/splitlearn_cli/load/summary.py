"""Summarizes the records of a level. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from splitlearn_cli.load.record import Record


@dataclass(frozen=True)
class Distribution:
    """Mean and percentiles, in the unit of the values. Percentiles are interpolated."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Summary:
    """The summary of a level. Times are in seconds; a distribution is None if it has no values.

    All numbers but `requests`, `duration` and `failures` are of successful requests. `duration` is from the first
    request sent to the last one ended. `total_tokens_per_second` includes prompts, and is None if the server does not
    report their lengths. `greatest_lag` is the generator's longest delay in sending a due request; None in a closed
    loop.
    """

    requests: int
    answered: int
    without_text: int
    failures: dict[str, int]
    duration: float
    requests_per_second: float
    output_tokens_per_second: float
    total_tokens_per_second: float | None
    ttft: Distribution | None
    itl: Distribution | None
    tpot: Distribution | None
    e2e: Distribution | None
    output_tokens: Distribution | None
    prompt_tokens: Distribution | None
    greatest_lag: float | None


def distribution(values: Iterable[float | None]) -> Distribution | None:
    """The distribution of the values that are not None."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    p50, p90, p99 = np.percentile(present, (50, 90, 99)).tolist()
    return Distribution(float(np.mean(present)), p50, p90, p99)


def summarize(records: Sequence[Record]) -> Summary:
    """The summary of at least one record."""
    answered = [record for record in records if record.failure is None]
    duration = max(record.sent + record.e2e for record in records) - min(record.sent for record in records)
    output = sum(record.output_tokens for record in answered)
    prompts = [record.prompt_tokens for record in answered if record.prompt_tokens is not None]
    lags = [record.sent - record.due for record in records if record.due is not None]
    failures = Counter(record.failure.kind for record in records if record.failure is not None)
    return Summary(
        requests=len(records),
        answered=len(answered),
        without_text=sum(record.ttft is None for record in answered),
        failures=dict(failures.most_common()),
        duration=duration,
        requests_per_second=len(answered) / duration,
        output_tokens_per_second=output / duration,
        total_tokens_per_second=(output + sum(prompts)) / duration if len(prompts) == len(answered) else None,
        ttft=distribution(record.ttft for record in answered),
        itl=distribution(gap for record in answered for gap in record.itl),
        tpot=distribution(record.tpot for record in answered),
        e2e=distribution(record.e2e for record in answered),
        output_tokens=distribution(record.output_tokens for record in answered),
        prompt_tokens=distribution(record.prompt_tokens for record in answered),
        greatest_lag=max(lags, default=None),
    )
