"""Compares the trunk's files with their digests: before it serves if that is quick, else while it serves."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

import structlog

from llm_sepweight import FileError, SepweightError, Verification
from splitlearn.model.plan import SplitPlan
from splitlearn_trunk.metrics import TrunkMetrics
from splitlearn_trunk.settings import TrunkSettings

log = structlog.get_logger()

# Seconds that the start may wait for the comparison.
QUICK: Final = 2.0


class WeightsCheck:
    """Compares the files of one trunk; `stack` ends it with the trunk."""

    def __init__(self, settings: TrunkSettings, plan: SplitPlan, metrics: TrunkMetrics, stack: AsyncExitStack) -> None:
        self._metrics = metrics
        self._stack = stack
        self._longest = None if settings.verify == "always" else QUICK
        self._verification = None if settings.verify == "never" else Verification(settings.weights, [plan.trunk])

    async def begin(self) -> None:
        """Returns once all files are compared, or once that takes too long to wait for.

        Raises:
            SepweightError: a file is damaged.
        """
        check = self._verification
        if check is None:
            return
        log.info("verifying weights", files=check.n_files, bytes=check.n_bytes)
        self._stack.callback(check.stop)
        check.start()
        if await asyncio.to_thread(check.wait, self._longest):
            self._passed(check)
            return
        log.info("verifying weights while serving", files=check.n_files, bytes=check.n_bytes)
        check.give_way()

    async def explain(self) -> None:
        """Raises the damage of a file, if there is any. Call it when the files cannot be loaded."""
        if self._verification is not None:
            await asyncio.to_thread(self._verification.wait)

    def watch(self, on_damage: Callable[[str], Awaitable[None]]) -> None:
        """Calls `on_damage`, with a line for clients, if a file turns out to be damaged."""
        if self._verification is not None:
            watching = asyncio.create_task(self._watch(self._verification, on_damage))
            self._stack.callback(watching.cancel)

    async def _watch(self, check: Verification, on_damage: Callable[[str], Awaitable[None]]) -> None:
        try:
            await asyncio.wrap_future(check.result)
        except (SepweightError, OSError) as error:
            self._metrics.weights_damaged.set(1)
            log.error("weights damaged; sessions are refused", error=str(error))
            # clients need not know the path
            name = error.file.name if isinstance(error, FileError) else "a file"
            await on_damage(f"{name} does not match its digest")
        else:
            self._passed(check)

    def _passed(self, check: Verification) -> None:
        found = check.result.result()
        self._verification = None
        self._metrics.weights_verified.set(1)
        log.info("weights verified", files=found.files, bytes=found.bytes, seconds=round(found.seconds, 2))
