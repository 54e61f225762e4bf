"""One address of a replica of the trunk: its connection, and the tasks that keep what is known about it current."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.errors import CommError, Draining, FingerprintMismatch, NextStageFailed, NotServed, TimedOut
from splitlearn_comm.frames import ServiceInfo
from splitlearn_comm.replicas.health import ReplicaHealth, ReplicaState
from splitlearn_comm.replicas.placement import LoadEstimate
from splitlearn_comm.replicas.workers import Identity

log = structlog.get_logger()

POLL_SECONDS = 0.5
ANSWER_SECONDS = 2.0
SLOW_SECONDS = 0.5
"""A poll that is answered later than this is no sign of health: sessions are placed elsewhere if they can be."""
_WATCH_AGAIN_SECONDS = 0.25
# a server without the standard health service will not have it a moment later
_NO_HEALTH_SECONDS = 30.0

Judge = Callable[[ServiceInfo], Awaitable[str | None]]
"""Why a replica that says this about itself cannot serve this client; None if it can."""


class Replica:
    """Used on the event loop's thread. `run` must be a task for as long as the replica is used.

    Args:
        client: the connection, which `close` closes.
        given: the HOST:PORT that its address was resolved from, or its address.
        judge: called with each report of the replica.
        changed: called after each change of the state.
        failed: called at each unexpected error of `run`, which goes on.
    """

    def __init__(
        self,
        client: AsyncGRPCComputeClient,
        given: str,
        judge: Judge,
        changed: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self.client = client
        self.load = LoadEstimate()
        self.n_sessions = 0
        """This client's open sessions on it."""
        self.identity = Identity(given, is_ipv6=client.target.startswith("["), instance=None)
        """What is known of the worker behind the address; kept while it does not answer."""
        self.attributes: Mapping[str, str] = {}
        """What the worker said of itself last; its owner may believe it or not."""
        self._judge = judge
        self._changed = changed
        self._failed = failed
        self._health = ReplicaHealth()
        self._noticed: ReplicaState | None = None
        self._is_serving = True
        self._asked: float | None = None
        self._news = asyncio.Event()
        self._failure: str | None = None

    def __repr__(self) -> str:
        return f"<Replica {self.address} {self.state}>"

    @property
    def address(self) -> str:
        return self.client.target

    @property
    def state(self) -> ReplicaState:
        return self._health.state(time.monotonic())

    @property
    def reason(self) -> str | None:
        """Why it does not take sessions; None if it does."""
        if self.state is ReplicaState.EJECTED:
            return f"{self.address} answered sessions with errors or not at all, and is not used for a while"
        return self._health.reason

    @property
    def is_slow(self) -> bool:
        """Whether it has not answered polls for some time, as if it were frozen."""
        return self._asked is not None and time.monotonic() - self._asked > SLOW_SECONDS

    @property
    def may_recover(self) -> bool:
        return self._health.may_recover

    def faulted(self, error: Exception) -> None:
        """A session on it ended with this error, which is not the session's own fault."""
        if isinstance(error, Draining):
            # until the watch says otherwise: a poll is answered as long as the server runs
            self._is_serving = False
            self._health.drains()
        elif isinstance(error, NextStageFailed):
            # this one is well; if it has no other next stage, its health says so
            pass
        elif isinstance(error, TimedOut):
            if self._health.fell_silent(str(error), time.monotonic()):
                self._log_ejection(error)
        elif isinstance(error, CommError) and error.fault == "network":
            self._health.unreachable(str(error))
        elif isinstance(error, CommError) and error.fault == "operator":
            # another cut, or damaged weights: the next poll says what
            pass
        elif self._health.faulted(time.monotonic()):
            self._log_ejection(error)
        self._news.set()
        self._notice()

    def succeeded(self) -> None:
        """A session on it got usable rows."""
        self._health.succeeded()

    async def run(self) -> None:
        """Polls the replica and watches its health, until cancelled."""
        watching = asyncio.create_task(self._watch())
        try:
            while True:
                await self._poll()
                self._notice()
                try:
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._news.wait()
                except TimeoutError:
                    pass
                self._news.clear()
        finally:
            watching.cancel()

    async def close(self) -> None:
        await self.client.close()

    async def _poll(self) -> None:
        """An unexpected error says nothing about the replica, and must not end `run`."""
        try:
            await self._ask()
        except Exception as error:  # noqa: BLE001 - it is logged, and must not end the task
            self._unexpected(error)
        else:
            self._failure = None

    def _unexpected(self, error: Exception) -> None:
        """Tells of an error once for as long as it stays the same."""
        self._failed()
        previous, self._failure = self._failure, repr(error)
        if self._failure != previous:
            log.error("polling the trunk failed; it continues", error=self._failure, exc_info=error)

    async def _ask(self) -> None:
        # a poll after one without an answer goes on waiting for the same sign of life
        self._asked = self._asked or time.monotonic()
        try:
            info = await self.client.service_info(min(ANSWER_SECONDS, self.client.timeout))
        except TimedOut as error:
            self._health.answers_late(str(error))
        except FingerprintMismatch as error:
            # a chain in which stages do not fit together
            self._asked = None
            self._health.answered(is_serving=False, incompatibility=str(error))
        except NextStageFailed as error:
            self._asked = None
            self._health.waits_for_others(str(error))
        except CommError as error:
            self._health.unreachable(str(error))
            if error.fault == "network":
                # its certificate, or ours, may be another by now
                await self.client.renew_credentials()
        else:
            self._asked = None
            self.load.report(info.load)
            self.identity = dataclasses.replace(self.identity, instance=info.instance)
            self.attributes = info.attributes
            incompatibility = await self._judge(info)
            self._health.answered(is_serving=self._is_serving, incompatibility=incompatibility)

    async def _watch(self) -> None:
        """Learns at once that the replica drains, died or is back; the poll then says more."""
        while True:
            pause = _WATCH_AGAIN_SECONDS
            try:
                async for is_serving in self.client.watch_health():
                    self._is_serving = is_serving
                    self._news.set()
            except NotServed:
                self._is_serving = True
                pause = _NO_HEALTH_SECONDS
            except CommError:
                self._is_serving = True
                self._news.set()
            except Exception as error:  # noqa: BLE001 - it is logged, and must not end the task
                self._unexpected(error)
            await asyncio.sleep(pause)

    def _log_ejection(self, error: Exception) -> None:
        log.warning("trunk ejected", replica=self.address, reason=str(error))

    def _notice(self) -> None:
        before, self._noticed = self._noticed, self.state
        if self._noticed is not before:
            self._changed()
