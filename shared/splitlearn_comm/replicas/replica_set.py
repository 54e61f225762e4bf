"""All replicas of a server: found by name, watched, and chosen from when a session is opened."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from random import Random

import structlog

from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.errors import InvalidAddress
from splitlearn_comm.replicas.discovery import Discovery
from splitlearn_comm.replicas.health import ReplicaState
from splitlearn_comm.replicas.placement import less_loaded
from splitlearn_comm.replicas.replica import Judge, Replica
from splitlearn_comm.replicas.workers import by_worker

log = structlog.get_logger()

RESOLVE_SECONDS = 2.0

Connect = Callable[[str, str], AsyncGRPCComputeClient]
"""Makes the client for HOST:PORT; the second is the address that it was resolved from."""


_PREFERENCE = (
    ReplicaState.READY,
    ReplicaState.EJECTED,
    ReplicaState.NOT_SERVING,
    ReplicaState.INCOMPATIBLE,
    ReplicaState.CONNECTING,
    ReplicaState.UNREACHABLE,
)
"""The address of a worker that is used is the one in the first of these states that any of them is in."""


class ReplicaSet:
    """Used on the event loop's thread. `run` must be a task.

    Each address has a `Replica`. Where several are the same worker's, the best of them stands for it.

    Args:
        trunk: the addresses; see `Discovery`.
        connect: see `Connect`.
        judge: see `Replica`.
        changed: called after each change of a replica's state, or of the set.
        failed: called at each unexpected error of a poll.

    Raises:
        InvalidAddress: `trunk` is not a list of addresses.
    """

    def __init__(
        self,
        trunk: str,
        connect: Connect,
        judge: Judge,
        changed: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self._discovery = Discovery(trunk)
        self._connect = connect
        self._judge = judge
        self._notify = changed
        self._failed = failed
        self._replicas: dict[str, Replica] = {}
        self._seen: dict[Replica, ReplicaState] = {}
        # gone from the name, but sessions are still open on them
        self._retired: set[Replica] = set()
        self._tasks: dict[Replica, asyncio.Task[None]] = {}
        self._trouble: str | None = None
        self._logged: tuple[str, ...] = ()
        self._endings: set[asyncio.Task[None]] = set()
        self._waiters: set[asyncio.Future[None]] = set()
        self._dice = Random()

    @property
    def reason(self) -> str | None:
        """Why no replica takes sessions; None if one does."""
        if self._usable():
            return None
        reasons = list(dict.fromkeys(replica.reason or str(replica.state) for replica in self._workers()))
        if not reasons:
            return self._trouble or "the trunk has not answered yet"
        return reasons[0] if len(reasons) == 1 else "no replica of the trunk can be used: " + "; ".join(reasons)

    @property
    def may_recover(self) -> bool:
        """Whether that may change by itself."""
        # any address: that two are one worker's is only what they say
        return not self._replicas or any(replica.may_recover for worker in self._by_worker() for replica in worker)

    def states(self) -> Counter[ReplicaState]:
        """How many replicas are in each state."""
        return Counter(replica.state for replica in self._workers())

    def usable_addresses(self) -> set[str]:
        """The addresses of the replicas that take sessions, one for each worker."""
        return {replica.address for replica in self._usable()}

    def reported(self, attribute: str) -> list[str | None]:
        """What each replica that takes sessions says of itself under this name; None where it says nothing."""
        return [replica.attributes.get(attribute) for replica in self._usable()]

    def pick(self, avoided: Collection[str] = ()) -> Replica | None:
        """A replica that takes sessions, by load; one of the avoided addresses only if there is no other.

        Another address of the same worker is better than an avoided one: the way there may be what failed.
        """
        usable = self._usable()
        ready = (replica for replica in self._replicas.values() if replica.state is ReplicaState.READY)
        wanted = [replica for replica in usable if replica.address not in avoided]
        wanted = wanted or [replica for replica in ready if replica.address not in avoided] or usable
        wanted = [replica for replica in wanted if not replica.is_slow] or wanted
        if not wanted:
            return None
        return less_loaded([(replica, replica.load.pressure) for replica in wanted], self._dice)

    async def picked(self, avoided: Collection[str], seconds: float) -> Replica | None:
        """Like `pick`; if there is none, waits up to `seconds` for one, as long as one may come by itself."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while (replica := self.pick(avoided)) is None and self.may_recover and loop.time() < deadline:
            waiter = loop.create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait({waiter}, timeout=deadline - loop.time())
            finally:
                self._waiters.discard(waiter)
        return replica

    @contextmanager
    def placed(self, replica: Replica, n_rows: int) -> Iterator[None]:
        """Counts a session of at most `n_rows` rows on the replica for the time of the block."""
        replica.load.placed(n_rows)
        replica.n_sessions += 1
        try:
            yield
        finally:
            replica.n_sessions -= 1
            replica.load.ended(n_rows)
            if replica in self._retired and not replica.n_sessions:
                self._retired.discard(replica)
                self._end(replica)

    async def run(self) -> None:
        """Resolves the names and keeps a task per replica, until cancelled."""
        try:
            while True:
                await self._resolve()
                await asyncio.sleep(RESOLVE_SECONDS)
        finally:
            ending = [self._end(replica) for replica in [*self._replicas.values(), *self._retired]]
            # sessions on them may end later
            self._retired.clear()
            await asyncio.gather(*ending, return_exceptions=True)

    def _usable(self) -> list[Replica]:
        """Those that take sessions. If all were ejected, they are used all the same: that is better than none."""
        states = {replica: replica.state for replica in self._workers()}
        ready = [replica for replica, state in states.items() if state is ReplicaState.READY]
        return ready or [replica for replica, state in states.items() if state is ReplicaState.EJECTED]

    def _workers(self) -> list[Replica]:
        """One address of each worker."""
        return [min(each, key=_preference) if len(each) > 1 else each[0] for each in self._by_worker()]

    def _by_worker(self) -> list[tuple[Replica, ...]]:
        return by_worker([(replica, replica.identity) for replica in self._replicas.values()])

    async def _resolve(self) -> None:
        if self._discovery.is_fixed and self._replicas:
            return
        try:
            addresses = await self._discovery.addresses()
        except InvalidAddress as error:
            self._trouble = str(error)
            self._changed()
            return
        finally:
            self._log_troubles()
        for address, given in addresses.items():
            if address not in self._replicas:
                self._begin(address, given)
        for address in self._replicas.keys() - set(addresses):
            self._retire(self._replicas.pop(address))

    def _log_troubles(self) -> None:
        """Once for as long as they stay the same."""
        if self._discovery.troubles != self._logged:
            self._logged = self._discovery.troubles
            for trouble in self._logged:
                log.warning("trunk addresses", reason=trouble)

    def _log_states(self) -> None:
        """Each change of an address, but not of one that may be nobody's."""
        for replica in (each for worker in self._by_worker() for each in worker):
            state, before = replica.state, self._seen.get(replica)
            if state is not before and state is not ReplicaState.CONNECTING:
                self._seen[replica] = state
                write = log.info if state is ReplicaState.READY else log.warning
                write("trunk replica", replica=replica.address, state=str(state), reason=replica.reason)

    def _begin(self, address: str, given: str) -> None:
        replica = Replica(self._connect(address, given), given, self._judge, self._changed, self._failed)
        self._replicas[address] = replica
        self._tasks[replica] = asyncio.create_task(replica.run(), name=f"polls of {address}")

    def _retire(self, replica: Replica) -> None:
        log.info("trunk replica is gone from the name", replica=replica.address, sessions=replica.n_sessions)
        self._seen.pop(replica, None)
        if replica.n_sessions:
            self._retired.add(replica)
        else:
            self._end(replica)
        self._changed()

    def _end(self, replica: Replica) -> "asyncio.Task[None]":
        """The task that stops the replica's polls and closes its connection."""
        ending = asyncio.create_task(_ended(replica, self._tasks.pop(replica)))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        return ending

    def _changed(self) -> None:
        self._log_states()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._notify()


def _preference(replica: Replica) -> tuple[int, bool]:
    return _PREFERENCE.index(replica.state), replica.is_slow


async def _ended(replica: Replica, polling: "asyncio.Task[None]") -> None:
    polling.cancel()
    await asyncio.wait({polling})
    await replica.close()
