"""Compares the files of bottom and top with their digests, before they are used if that is quick, else meanwhile."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

import structlog

from llm_sepweight import SepweightError, Verification
from llm_sepweight.verification import KnownDigests
from splitlearn.model.plan import SplitPlan
from splitlearn_client.metrics import ClientMetrics
from splitlearn_client.settings import ClientSettings

log = structlog.get_logger()

# Seconds that loading may wait for the comparison.
QUICK: Final = 2.0


class WeightsCheck:
    """Compares the files of bottom and top, once for each plan; `stack` ends it."""

    def __init__(self, settings: ClientSettings, metrics: ClientMetrics, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._metrics = metrics
        # results by file, because a damaged file is compared again at each poll until it is replaced
        self._known: KnownDigests = {}
        self._verification: Verification | None = None
        self._watching: asyncio.Task[None] | None = None
        stack.callback(self._stop)

    async def begin(self, plan: SplitPlan, on_damage: Callable[[str], None]) -> None:
        """Returns once all files are compared, or once that takes too long to wait for.

        Args:
            on_damage: called with the reason if a file turns out to be damaged later.

        Raises:
            SepweightError: a file is damaged.
        """
        self._stop()
        if self._settings.verify == "never":
            return
        check = self._verification = Verification(self._settings.weights, [plan.bottom, plan.top], self._known)
        log.info("verifying weights", files=check.n_files, bytes=check.n_bytes)
        check.start()
        longest = None if self._settings.verify == "always" else QUICK
        try:
            is_over = await asyncio.to_thread(check.wait, longest)
        except (SepweightError, OSError):
            self._metrics.weights_damaged.set(1)
            raise
        if is_over:
            self._passed(check)
            return
        log.info("verifying weights while serving", files=check.n_files, bytes=check.n_bytes)
        check.give_way()
        self._watching = asyncio.create_task(self._watch(check, on_damage))

    async def explain(self) -> None:
        """Raises the damage of a file, if there is any. Call it when the files cannot be loaded."""
        if self._verification is not None:
            await asyncio.to_thread(self._verification.wait)

    async def _watch(self, check: Verification, on_damage: Callable[[str], None]) -> None:
        try:
            await asyncio.wrap_future(check.result)
        except (SepweightError, OSError) as error:
            self._metrics.weights_damaged.set(1)
            log.error("weights damaged; requests are refused", error=str(error))
            on_damage(str(error))
        else:
            self._passed(check)

    def _passed(self, check: Verification) -> None:
        found = check.result.result()
        self._metrics.weights_damaged.set(0)
        self._metrics.weights_verified.set(1)
        log.info("weights verified", files=found.files, bytes=found.bytes, seconds=round(found.seconds, 2))

    def _stop(self) -> None:
        self._metrics.weights_verified.set(0)
        if self._watching is not None:
            self._watching.cancel()
        if self._verification is not None:
            self._verification.stop()
