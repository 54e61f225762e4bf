"""The link to the trunk: watches whether one that fits answers, and opens sessions on it."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import structlog

from client_service.errors import TrunkNotReady
from client_service.local_parts import LocalParts
from llm_sepweight import SepweightError
from splitlearn.errors import SplitError
from splitlearn.plan import SplitPlan
from splitlearn_comm import AsyncGRPCComputeClient, ClientStream, CommError, ServiceInfo, SessionOpening

log = structlog.get_logger()

WAITING_SECONDS = 0.5
WATCHING_SECONDS = 2.0
ASKING_SECONDS = 5.0


class TrunkConnection:
    """Knows the trunk's state at any time; `watch` keeps it true and must run as a task.

    Args:
        client: connection to the trunk's address.
        n_layers: of the model whose ends this client holds.
        layers: the cut to insist on; None takes the cut that the trunk serves.
        load_local_parts: loads bottom and top for a plan.
        codec: what rows travel in, both ways.
        failed: is told when the watch runs into what nobody foresaw.
    """

    def __init__(
        self,
        client: AsyncGRPCComputeClient,
        n_layers: int,
        layers: str | None,
        load_local_parts: Callable[[SplitPlan], Awaitable[LocalParts]],
        codec: str = "none",
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._n_layers = n_layers
        self._wanted = SplitPlan.parse(layers, n_layers) if layers else None
        self._load_local_parts = load_local_parts
        self._codec = codec
        self._failed = failed
        self._failure: str | None = None
        self._local_parts: LocalParts | None = None
        self._offered: SplitPlan | None = None
        self._damage: str | None = None
        self.ready = asyncio.Event()
        """Set once a trunk that fits has answered; `not_ready_reason` says whether one does now."""
        self.not_ready_reason: str | None = "no trunk has been asked yet"
        """Why requests cannot be served now; None when they can."""
        self.may_recover = True
        """Whether the reason may go away by itself, as that of a trunk that is starting does; damage does not."""

    @property
    def local_parts(self) -> LocalParts:
        """The parts that fit the trunk.

        Raises:
            TrunkNotReady: with the reason, until a trunk that fits has answered.
        """
        if self.not_ready_reason is not None or self._local_parts is None:
            raise TrunkNotReady(self.not_ready_reason or "bottom and top are still loading")
        return self._local_parts

    @property
    def n_waiting(self) -> int:
        """Sessions of bottom and top that wait for admission."""
        return 0 if self._local_parts is None else self._local_parts.bottom.n_waiting + self._local_parts.top.n_waiting

    def open_stream(self, parts: LocalParts, max_length: int, prefix: tuple[bytes, ...] = ()) -> ClientStream:
        """A session on one of the trunk's replicas, not sent before its first frame, or `open` if it has a prefix."""
        session_id = uuid.uuid4().hex
        return self._client.stream(SessionOpening(session_id, parts.fingerprint, max_length, self._codec, prefix))

    def mark_damaged(self, damage: str) -> None:
        """From now on no request is served: a file of bottom or top is not what it should be."""
        self._damage = self.not_ready_reason = damage
        self.may_recover = False

    async def watch(self) -> None:
        """Asks the trunk again and again; runs until cancelled."""
        while True:
            before = self.not_ready_reason
            self.not_ready_reason = await self._looked_after(before)
            if self.not_ready_reason is None and before is not None:
                log.info("trunk ready", fingerprint=self.local_parts.fingerprint)
                self.ready.set()
            elif self.not_ready_reason != before:
                log.warning("trunk not ready", reason=self.not_ready_reason)
            await asyncio.sleep(WAITING_SECONDS if self.not_ready_reason else WATCHING_SECONDS)

    async def _looked_after(self, before: str | None) -> str | None:
        """The reason now. A fault of the watch itself says nothing about the trunk, and must not end the watch."""
        try:
            reason = await self._ask()
        except Exception as error:
            self._failed()
            before_that, self._failure = self._failure, repr(error)
            if self._failure != before_that:
                log.error("the watch over the trunk failed; it goes on", error=self._failure, exc_info=error)
            return before
        self._failure = None
        return reason

    async def _ask(self) -> str | None:
        if self._damage is not None:
            return self._damage
        try:
            info = await self._client.service_info(ASKING_SECONDS)
        except CommError as error:
            self.may_recover = True
            return str(error)
        reason = await self._misfit(info)
        self.may_recover = reason is None
        return reason

    async def _misfit(self, info: ServiceInfo) -> str | None:
        """Why the trunk that answered and this client cannot work together."""
        try:
            parts = await self._matching_parts(info)
        except (SplitError, SepweightError, TrunkNotReady) as error:
            return str(error)
        if self._damage is not None:
            return self._damage
        if damage := info.attributes.get("damaged"):
            return f"the trunk's weights are damaged: {damage}; copy the file there again and start the trunk again"
        if info.fingerprint != parts.fingerprint:
            return (
                f"the trunk serves [{info.fingerprint}], this client holds [{parts.fingerprint}]; "
                "give both the same weights, layers and dtype"
            )
        parts.learn_trunk_cores(info.attributes.get("cores"))
        return None

    async def _matching_parts(self, info: ServiceInfo) -> LocalParts:
        # a trunk of another depth is another model: keep the own cut and let the fingerprints say so
        same_depth = info.attributes.get("n_layers") == str(self._n_layers)
        offered = info.attributes.get("layers") if same_depth else None
        plan = self._wanted or SplitPlan.parse(offered, self._n_layers)
        # one answer with another cut may come from the odd one of several replicas; two in a row are a change
        offered_before, self._offered = self._offered, plan
        if self._local_parts is None or (self._local_parts.plan != plan == offered_before):
            self._local_parts = await self._loaded(plan)
        return self._local_parts

    async def _loaded(self, plan: SplitPlan) -> LocalParts:
        try:
            return await self._load_local_parts(plan)
        except (OSError, RuntimeError) as error:
            # RuntimeError is what torch raises when a device is out of memory or fails
            raise TrunkNotReady(f"bottom and top cannot be loaded: {error}") from error
