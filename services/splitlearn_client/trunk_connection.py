"""The connection to the trunk: which replicas are compatible, the parts that match them, and readiness."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

import structlog

from llm_sepweight import SepweightError
from splitlearn.errors import SplitError
from splitlearn.model.plan import SplitPlan
from splitlearn_client.errors import TrunkNotReady
from splitlearn_client.link_speed import LinkSpeed, WireCodec
from splitlearn_client.local_parts import LocalParts
from splitlearn_comm import ServiceInfo
from splitlearn_comm.replicas.health import ReplicaState
from splitlearn_comm.replicas.replica import Replica
from splitlearn_comm.replicas.replica_set import Connect, ReplicaSet

log = structlog.get_logger()

# engines tell sessions apart by microseconds
_APART_SECONDS = 2e-6


class TrunkConnection:
    """Knows whether requests can be served; `watch` keeps that current and must run as a task.

    Args:
        trunk: the addresses of the replicas; see `splitlearn_comm.replicas.discovery`.
        connect: makes the gRPC client for an address; see `splitlearn_comm.replicas.connecting`.
        n_layers: layers of the whole model.
        layers: the cut that the trunk must have; None accepts the trunk's cut.
        load_local_parts: loads bottom and top for a plan.
        codec: the wire codec of rows, in both directions; "auto" chooses by what each replica's link takes.
        failover_timeout: seconds that a session waits for a replica to go on with, after one failed.
        failed: called at each unexpected error of `watch`.

    Raises:
        InvalidAddress: `trunk` is not a list of addresses.
        BadPlan: `layers` is no cut of the model.
    """

    def __init__(
        self,
        trunk: str,
        connect: Connect,
        n_layers: int,
        layers: str | None,
        load_local_parts: Callable[[SplitPlan], Awaitable[LocalParts]],
        codec: WireCodec = "none",
        failover_timeout: float = 30.0,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._codec = codec
        self._links = WeakKeyDictionary[Replica, LinkSpeed]()
        self.failover_timeout = failover_timeout
        self._n_layers = n_layers
        self._wanted = SplitPlan.parse(layers, n_layers) if layers else None
        self._load_local_parts = load_local_parts
        # one replica after another decides which parts are loaded
        self._loading = asyncio.Lock()
        self._local_parts: LocalParts | None = None
        self._offered: SplitPlan | None = None
        self._damage: str | None = None
        self._opened_at = 0.0
        self._logged: str | None = ""
        self.replicas = ReplicaSet(trunk, connect, self._incompatibility, self._changed, failed)
        self.ready = asyncio.Event()
        """Set once a compatible replica has answered; `not_ready_reason` says whether one answers now."""

    @property
    def not_ready_reason(self) -> str | None:
        """Why requests cannot be served now; None if they can."""
        return self._damage or self.replicas.reason

    @property
    def may_recover(self) -> bool:
        """Whether that may change by itself: true while a trunk starts, false for damaged files."""
        return self._damage is None and self.replicas.may_recover

    def link_to(self, replica: Replica) -> LinkSpeed:
        """What frames to this replica take."""
        return self._links.setdefault(replica, LinkSpeed())

    def codec_to(self, replica: Replica) -> str:
        """The codec of the rows of a session that is opened there. Raises TrunkNotReady."""
        part, link = self.local_parts.bottom.part, self.link_to(replica)
        before, codec = link.codec_before, link.codec(self._codec, part.hidden_size * part.dtype.itemsize)
        if codec != before and self._codec == "auto":
            log.info("wire codec", replica=replica.address, codec=codec)
        return codec

    @property
    def local_parts(self) -> LocalParts:
        """Bottom and top, cut to match the trunk.

        Raises:
            TrunkNotReady: with the reason, unless a compatible trunk answers.
        """
        if self.not_ready_reason is not None or self._local_parts is None:
            raise TrunkNotReady(self.not_ready_reason or "bottom and top are still loading")
        return self._local_parts

    @property
    def n_waiting(self) -> int:
        """Sessions of bottom and top that wait for admission."""
        return 0 if self._local_parts is None else self._local_parts.bottom.n_waiting + self._local_parts.top.n_waiting

    def next_opening(self) -> float:
        """When the next session is opened, in seconds since the epoch; later than any before it."""
        self._opened_at = max(time.time(), self._opened_at + _APART_SECONDS)
        return self._opened_at

    def mark_damaged(self, damage: str) -> None:
        """Stops serving requests for good: a file of bottom or top is damaged."""
        self._damage = damage
        self._changed()

    async def watch(self) -> None:
        """Finds and polls the replicas; runs until cancelled."""
        await self.replicas.run()

    def _changed(self) -> None:
        reason = self.not_ready_reason
        if reason == self._logged:
            return
        self._logged = reason
        if reason is None:
            log.info("trunk ready", fingerprint=self.local_parts.fingerprint)
            self.ready.set()
        else:
            log.warning("trunk not ready", reason=reason)

    async def _incompatibility(self, info: ServiceInfo) -> str | None:
        """Why a replica that says this and this client are not compatible; None if they are."""
        try:
            async with self._loading:
                parts = await self._matching_parts(info)
        except (SplitError, SepweightError, TrunkNotReady) as error:
            return str(error)
        if damage := info.attributes.get("damaged"):
            return f"the trunk's weights are damaged: {damage}; copy the file there again and start the trunk again"
        if info.fingerprint != parts.fingerprint:
            return (
                f"the trunk serves [{info.fingerprint}], this client holds [{parts.fingerprint}]; "
                "give both the same weights, layers and dtype (a model by its name fits no converted directory)"
            )
        parts.learn_trunk_cores(info.attributes.get("cores"))
        return None

    async def _matching_parts(self, info: ServiceInfo) -> LocalParts:
        # a trunk with another number of layers has another model, which the fingerprints will show
        same_depth = info.attributes.get("n_layers") == str(self._n_layers)
        offered = info.attributes.get("layers") if same_depth else None
        plan = self._wanted or SplitPlan.parse(offered, self._n_layers)
        # one answer with another cut may come from one of several replicas; two in a row are a change
        offered_before, self._offered = self._offered, plan
        is_serving = self.replicas.states()[ReplicaState.READY] > 0
        if self._local_parts is None or (self._local_parts.plan != plan == offered_before and not is_serving):
            self._local_parts = await self._loaded(plan)
        return self._local_parts

    async def _loaded(self, plan: SplitPlan) -> LocalParts:
        try:
            return await self._load_local_parts(plan)
        except (OSError, RuntimeError) as error:
            # torch raises RuntimeError when a device fails or is out of memory
            raise TrunkNotReady(f"bottom and top cannot be loaded: {error}") from error
