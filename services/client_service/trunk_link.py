"""The link to the trunk: watches whether one that fits answers, and opens sessions on it."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import structlog

from client_service.ends import Ends
from client_service.errors import TrunkNotReady
from llm_sepweight import SepweightError
from splitlearn.errors import SplitError
from splitlearn.plan import SplitPlan
from splitlearn_comm import AsyncGRPCComputeClient, ClientStream, CommError, ServiceInfo, SessionOpening

log = structlog.get_logger()

WAITING_SECONDS = 0.5
WATCHING_SECONDS = 2.0
ASKING_SECONDS = 5.0


class TrunkLink:
    """Knows the trunk's state at any time; `watch` keeps it true and must run as a task.

    Args:
        client: connection to the trunk's address.
        n_layers: of the model whose ends this client holds.
        layers: the cut to insist on; None takes the cut that the trunk serves.
        load_ends: loads bottom and top for a plan.
        codec: what rows travel in, both ways.
        failed: is told when the watch runs into what nobody foresaw.
    """

    def __init__(
        self,
        client: AsyncGRPCComputeClient,
        n_layers: int,
        layers: str | None,
        load_ends: Callable[[SplitPlan], Awaitable[Ends]],
        codec: str = "none",
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._n_layers = n_layers
        self._wanted = SplitPlan.parse(layers, n_layers) if layers else None
        self._load_ends = load_ends
        self._codec = codec
        self._failed = failed
        self._failure: str | None = None
        self._ends: Ends | None = None
        self._offered: SplitPlan | None = None
        self._damage: str | None = None
        self.ready = asyncio.Event()
        """Set once a trunk that fits has answered; `trouble` says whether one does now."""
        self.trouble: str | None = "no trunk has been asked yet"
        """Why requests cannot be served now; None when they can."""
        self.passes = True
        """Whether the trouble may go away by itself, as that of a trunk that is starting does; damage does not."""

    @property
    def ends(self) -> Ends:
        """The parts that fit the trunk.

        Raises:
            TrunkNotReady: with the reason, until a trunk that fits has answered.
        """
        if self.trouble is not None or self._ends is None:
            raise TrunkNotReady(self.trouble or "bottom and top are still loading")
        return self._ends

    @property
    def n_waiting(self) -> int:
        """Sessions of bottom and top that wait for admission."""
        return 0 if self._ends is None else self._ends.bottom.n_waiting + self._ends.top.n_waiting

    def open_stream(self, ends: Ends, max_length: int, prefix: tuple[bytes, ...] = ()) -> ClientStream:
        """A session on one of the trunk's replicas, not sent before its first frame, or `open` if it has a prefix."""
        session_id = uuid.uuid4().hex
        return self._client.stream(SessionOpening(session_id, ends.fingerprint, max_length, self._codec, prefix))

    def condemn(self, damage: str) -> None:
        """From now on no request is served: a file of bottom or top is not what it should be."""
        self._damage = self.trouble = damage
        self.passes = False

    async def watch(self) -> None:
        """Asks the trunk again and again; runs until cancelled."""
        while True:
            before = self.trouble
            self.trouble = await self._looked_after(before)
            if self.trouble is None and before is not None:
                log.info("trunk ready", fingerprint=self.ends.fingerprint)
                self.ready.set()
            elif self.trouble != before:
                log.warning("trunk not ready", reason=self.trouble)
            await asyncio.sleep(WAITING_SECONDS if self.trouble else WATCHING_SECONDS)

    async def _looked_after(self, before: str | None) -> str | None:
        """The trouble now. A fault of the watch itself says nothing about the trunk, and must not end the watch."""
        try:
            trouble = await self._ask()
        except Exception as error:
            self._failed()
            before_that, self._failure = self._failure, repr(error)
            if self._failure != before_that:
                log.error("the watch over the trunk failed; it goes on", error=self._failure, exc_info=error)
            return before
        self._failure = None
        return trouble

    async def _ask(self) -> str | None:
        if self._damage is not None:
            return self._damage
        try:
            info = await self._client.service_info(ASKING_SECONDS)
        except CommError as error:
            self.passes = True
            return str(error)
        trouble = await self._misfit(info)
        self.passes = trouble is None
        return trouble

    async def _misfit(self, info: ServiceInfo) -> str | None:
        """Why the trunk that answered and this client cannot work together."""
        try:
            ends = await self._fitting_ends(info)
        except (SplitError, SepweightError, TrunkNotReady) as error:
            return str(error)
        if self._damage is not None:
            return self._damage
        if damage := info.attributes.get("damaged"):
            return f"the trunk's weights are damaged: {damage}; copy the file there again and start the trunk again"
        if info.fingerprint != ends.fingerprint:
            return (
                f"the trunk serves [{info.fingerprint}], this client holds [{ends.fingerprint}]; "
                "give both the same weights, layers and dtype"
            )
        ends.learn_trunk_cores(info.attributes.get("cores"))
        return None

    async def _fitting_ends(self, info: ServiceInfo) -> Ends:
        # a trunk of another depth is another model: keep the own cut and let the fingerprints say so
        same_depth = info.attributes.get("n_layers") == str(self._n_layers)
        offered = info.attributes.get("layers") if same_depth else None
        plan = self._wanted or SplitPlan.parse(offered, self._n_layers)
        # one answer with another cut may come from the odd one of several replicas; two in a row are a change
        offered_before, self._offered = self._offered, plan
        if self._ends is None or (self._ends.plan != plan == offered_before):
            self._ends = await self._loaded(plan)
        return self._ends

    async def _loaded(self, plan: SplitPlan) -> Ends:
        try:
            return await self._load_ends(plan)
        except (OSError, RuntimeError) as error:
            # RuntimeError is what torch raises when a device is out of memory or fails
            raise TrunkNotReady(f"bottom and top cannot be loaded: {error}") from error
