"""Runs a load test: finds the model, then warms up and measures level by level."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from splitlearn_cli.load.client import Endpoint, measure, served_model
from splitlearn_cli.load.drive import Ask, run_level, warm_up
from splitlearn_cli.load.plan import Level, PlannedRequest
from splitlearn_cli.load.record import MeasuredLevel, MeasuredRun, Record
from splitlearn_cli.terminal import note


async def measure_levels(endpoint: Endpoint, levels: Sequence[Level], measured: MeasuredRun) -> None:
    """Fills `measured`, which the caller keeps even if this is cancelled.

    Raises:
        ServiceUnreachable, ServiceRefused: no model was given, and the endpoint lists none.
    """
    async with endpoint.session() as session:
        measured.model = endpoint.model or await served_model(session)

        async def ask(request: PlannedRequest, began: float) -> Record:
            return await measure(session, endpoint.api, measured.model, request, began=began)

        for level in levels:
            _note_failures(level, await warm_up(level, ask))
            kept = MeasuredLevel(level.load, len(level.requests))
            measured.levels.append(kept)
            await _measure_level(level, ask, kept)


async def _measure_level(level: Level, ask: Ask, kept: MeasuredLevel) -> None:
    with _bar(str(level.load), len(level.requests)) as advance:

        def done(record: Record) -> None:
            kept.records.append(record)
            advance()

        await run_level(level, ask, done)


def _note_failures(level: Level, warm: Sequence[Record]) -> None:
    failures = [record.failure for record in warm if record.failure is not None]
    if failures:
        note(f"{level.load}: {len(failures)} of {len(warm)} warm-up requests failed: {failures[0].message}")


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Yields a function to call at the end of each request; shows a bar if stderr is a terminal."""
    with tqdm(total=total, desc=title, unit="request", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

        def advance() -> None:
            bar.update()

        yield advance
