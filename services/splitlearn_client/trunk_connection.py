"""The connection to the trunk: polls whether a compatible one answers, and opens sessions on it."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import structlog

from llm_sepweight import SepweightError
from splitlearn.errors import SplitError
from splitlearn.model.plan import SplitPlan
from splitlearn_client.errors import TrunkNotReady
from splitlearn_client.local_parts import LocalParts
from splitlearn_comm import AsyncGRPCComputeClient, ClientStream, CommError, ServiceInfo, SessionOpening

log = structlog.get_logger()

WAITING_SECONDS = 0.5
WATCHING_SECONDS = 2.0
ASKING_SECONDS = 5.0


class TrunkConnection:
    """Knows whether requests can be served; `watch` keeps that current and must run as a task.

    Args:
        client: the gRPC client for the trunk's address.
        n_layers: layers of the whole model.
        layers: the cut that the trunk must have; None accepts the trunk's cut.
        load_local_parts: loads bottom and top for a plan.
        codec: the wire codec of rows, in both directions.
        failed: called at each unexpected error of `watch`.
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
        """Set once a compatible trunk has answered; `not_ready_reason` says whether one answers now."""
        self.not_ready_reason: str | None = "the trunk has not answered yet"
        """Why requests cannot be served now; None if they can."""
        self.may_recover = True
        """Whether that may change by itself: true while a trunk starts, false for damaged files."""

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

    def open_stream(self, parts: LocalParts, max_length: int, block_hashes: tuple[bytes, ...] = ()) -> ClientStream:
        """A session on a replica of the trunk; with block hashes it is opened by `open`, else by its first frame."""
        session_id = uuid.uuid4().hex
        return self._client.stream(SessionOpening(session_id, parts.fingerprint, max_length, self._codec, block_hashes))

    def mark_damaged(self, damage: str) -> None:
        """Stops serving requests for good: a file of bottom or top is damaged."""
        self._damage = self.not_ready_reason = damage
        self.may_recover = False

    async def watch(self) -> None:
        """Polls the trunk; runs until cancelled."""
        while True:
            before = self.not_ready_reason
            self.not_ready_reason = await self._polled(before)
            if self.not_ready_reason is None and before is not None:
                log.info("trunk ready", fingerprint=self.local_parts.fingerprint)
                self.ready.set()
            elif self.not_ready_reason != before:
                log.warning("trunk not ready", reason=self.not_ready_reason)
            await asyncio.sleep(WAITING_SECONDS if self.not_ready_reason else WATCHING_SECONDS)

    async def _polled(self, before: str | None) -> str | None:
        """The current reason. An unexpected error says nothing about the trunk, and must not end `watch`."""
        try:
            reason = await self._ask()
        except Exception as error:
            self._failed()
            previous, self._failure = self._failure, repr(error)
            if self._failure != previous:
                log.error("polling the trunk failed; it continues", error=self._failure, exc_info=error)
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
        reason = await self._incompatibility(info)
        self.may_recover = reason is None
        return reason

    async def _incompatibility(self, info: ServiceInfo) -> str | None:
        """Why the trunk and this client are not compatible; None if they are."""
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
        # a trunk with another number of layers has another model, which the fingerprints will show
        same_depth = info.attributes.get("n_layers") == str(self._n_layers)
        offered = info.attributes.get("layers") if same_depth else None
        plan = self._wanted or SplitPlan.parse(offered, self._n_layers)
        # one answer with another cut may come from one of several replicas; two in a row are a change
        offered_before, self._offered = self._offered, plan
        if self._local_parts is None or (self._local_parts.plan != plan == offered_before):
            self._local_parts = await self._loaded(plan)
        return self._local_parts

    async def _loaded(self, plan: SplitPlan) -> LocalParts:
        try:
            return await self._load_local_parts(plan)
        except (OSError, RuntimeError) as error:
            # torch raises RuntimeError when a device fails or is out of memory
            raise TrunkNotReady(f"bottom and top cannot be loaded: {error}") from error
