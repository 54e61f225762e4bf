"""A worker whose rows go on to the next stage. To its clients, the chain is one trunk."""

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace

import structlog

from splitlearn_comm import (
    ClientStream,
    CommError,
    FingerprintMismatch,
    Frame,
    FrameHeader,
    InvalidRequest,
    NextStageFailed,
    Overloaded,
    PositionNotReached,
    RemoteFailure,
    Reply,
    ServiceInfo,
    SessionOpening,
    SessionTooLong,
)
from splitlearn_comm.peer_text import clipped
from splitlearn_comm.replicas.replica import Replica
from splitlearn_trunk.endpoint import TrunkServicer, TrunkSession
from splitlearn_trunk.metrics import TrunkMetrics
from splitlearn_trunk.next_stage import NextStage

# What the next stage says and means the client with, or a stage behind it; all other errors are the stage's own.
_PASSED_ON = (Overloaded, PositionNotReached, SessionTooLong, NextStageFailed)

log = structlog.get_logger()


class ChainServicer:
    """Opens each session here and on the next stage, for clients whose trunk is all layers of the chain.

    Args:
        own: this worker's sessions.
        next_stage: where the rows go on to.
        metrics: this worker's.
    """

    def __init__(self, own: TrunkServicer, next_stage: NextStage, metrics: TrunkMetrics) -> None:
        self._own = own
        self._next = next_stage
        self._metrics = metrics

    def info(self) -> ServiceInfo:
        """This worker's load and device, and the whole chain's layers. Raises NextStageFailed without a next stage,
        and FingerprintMismatch with one that does not fit."""
        info, plan = self._own.info(), self._next.whole_plan
        attributes = {
            **info.attributes,
            "layers": plan.layers,
            "stage_layers": info.attributes["layers"],
            **self._next.guesses_beside(info.attributes),
        }
        return replace(info, fingerprint=self._next.whole_fingerprint, attributes=attributes)

    async def open(self, opening: SessionOpening) -> "ChainSession":
        """Raises:
        FingerprintMismatch: the client or the next stage has another model, cut or dtype.
        NextStageFailed: no worker of the next stage takes the session.
        CommError: one of the two refused it.
        """
        expected = self._next.whole_fingerprint
        if opening.fingerprint != expected:
            raise FingerprintMismatch(
                f"this chain serves [{expected}], the client expects [{clipped(opening.fingerprint)}]; "
                "give all the same weights, layers and dtype"
            )
        session = await self._own.open(replace(opening, fingerprint=self._own.fingerprint))
        try:
            # without rows here, rows that the next stage has cached are of no use
            hashes = opening.block_hashes if session.reached else ()
            # the next stage knows this worker alone
            beyond = replace(
                opening,
                fingerprint=self._next.fingerprint,
                block_hashes=hashes,
                passed_on_for=opening.client_id,
                client="",
                identity="",
                context=session.context,
            )
            return ChainSession(session, self._next, self._next.pick(), beyond, self._metrics)
        except BaseException:
            await session.close()
            raise


class ChainSession:
    """One client's session: rows run here, then on the next stage. Owns the stream to it."""

    def __init__(
        self,
        own: TrunkSession,
        next_stage: NextStage,
        replica: Replica,
        opening: SessionOpening,
        metrics: TrunkMetrics,
    ) -> None:
        self._own = own
        self._metrics = metrics
        self._replica = replica
        # before the placement, which would otherwise stay if no stream can be made
        self._stream: ClientStream = replica.client.stream(opening)
        self._placement = ExitStack()
        self._placement.enter_context(next_stage.replicas.placed(replica, opening.max_length))
        self._block_hashes: tuple[bytes, ...] | None = None
        self._is_asking = False
        self._reached = 0

    async def begin(self) -> None:
        """Opens the session on the next stage, where it may have cached rows. Raises CommError."""
        if not self._stream.opening.has_reply:
            return
        self._is_asking = True
        try:
            self._reached = min(self._own.reached, await self._stream.open())
        except CommError as error:
            raise self._blamed(error) from error
        finally:
            self._is_asking = False

    @property
    def reached(self) -> int:
        """The rows that both stages held at the opening."""
        return self._reached

    def check(self, header: FrameHeader) -> None:
        """Raises what `step` would raise for a frame with this header; called before its rows are decoded."""
        self._own.check(header)

    async def step(self, frame: Frame) -> Reply:
        """Runs a frame on both stages; raises CommError. A stage may be ahead of the other after an error, which the
        next frame's position puts right."""
        here = await self._own.step(frame)
        if (here.frame.position, here.frame.row_count) != (frame.position, frame.row_count):
            # the next stage would blame the client for it
            raise RemoteFailure(f"this stage answered {frame.row_count} rows with {here.frame.row_count}")
        self._is_asking, asked = True, time.perf_counter()
        try:
            there = await self._stream.step(here.frame)
        except CommError as error:
            raise self._blamed(error) from error
        finally:
            self._is_asking = False
        self._replica.succeeded()
        waited = time.perf_counter() - asked
        self._metrics.next_round_trip.observe(max(0.0, waited - there.queue_seconds - there.compute_seconds))
        return Reply(
            there.frame,
            here.queue_seconds + there.queue_seconds,
            here.compute_seconds + there.compute_seconds,
        )

    def gets_on(self) -> bool:
        """Whether this worker makes progress, or the next one is being asked: its silence has a timeout of its own."""
        return self._is_asking or self._own.gets_on()

    def finish(self, block_hashes: Sequence[bytes]) -> None:
        """Ends the session, and caches the rows of these blocks on both stages."""
        self._own.finish(block_hashes)
        self._block_hashes = tuple(block_hashes)

    async def close(self) -> None:
        """Frees what the session holds on both stages."""
        try:
            if self._block_hashes is None or self._stream.ended:
                self._stream.cancel()
                await self._stream.wait_ended()
            else:
                with suppress(CommError):
                    await self._stream.finish(self._block_hashes)
                    await self._stream.close()
        finally:
            self._placement.close()
            await self._own.close()

    def _blamed(self, error: CommError) -> CommError:
        """The error for the client. What is wrong with the next stage makes the client go elsewhere, or come back.

        Every stage that waits tells those before it so. Only the last one that is well waits in silence, and its
        timeout passes first. It alone blames the stage behind it, and all before it pass that on.
        """
        if isinstance(error, _PASSED_ON):
            return error
        if isinstance(error, InvalidRequest):
            return RemoteFailure(f"the next stage refused this worker's rows: {error}")
        self._replica.faulted(error)
        self._metrics.next_failed(error)
        log.warning("next stage failed", replica=self._replica.address, error=type(error).__name__, reason=str(error))
        return NextStageFailed(f"the stage at {self._replica.address} failed: {error}")
