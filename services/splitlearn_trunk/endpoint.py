"""The trunk's sessions on the wire: a frame arrives, the engine runs its rows, a reply is sent.

The only module that turns the engine's errors into errors of the wire.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import structlog
import torch

from splitlearn import errors as split
from splitlearn.engine import Engine, EngineSession
from splitlearn.engine.positions import check_position
from splitlearn_comm import (
    CommError,
    Draining,
    FingerprintMismatch,
    Frame,
    FrameHeader,
    InvalidTensor,
    Overloaded,
    PositionNotReached,
    RemoteFailure,
    Reply,
    RequestContext,
    ServiceInfo,
    ServiceLoad,
    SessionClosed,
    SessionOpening,
    SessionTooLong,
)
from splitlearn_comm.peer_text import clipped
from splitlearn_comm.tracing import NoTracer, Span, Tracer
from splitlearn_trunk.metrics import TrunkMetrics

log = structlog.get_logger()

# Seconds between two searches for idle sessions.
_EXPIRE_EVERY = 5.0
# How long ago clients may have begun with a session that they open now, perhaps after a failover.
_OLDEST_SECONDS = 60.0

# The error of the wire for each of the engine's; for one that is not listed, that of its nearest ancestor.
_ON_THE_WIRE: dict[type[split.SplitError], type[CommError]] = {
    split.BadRows: InvalidTensor,
    split.PositionNotReached: PositionNotReached,
    split.ContextExceeded: SessionTooLong,
    split.SessionClosed: SessionClosed,
    split.EngineFull: Overloaded,
    # the worker is about to end, and knows it or will in a moment
    split.EngineFailed: Draining,
    split.SplitError: RemoteFailure,
}


def on_the_wire(error: split.SplitError) -> CommError:
    """The wire's error for one of the engine's, with the same message and time to retry."""
    kind = next(_ON_THE_WIRE[ancestor] for ancestor in type(error).__mro__ if ancestor in _ON_THE_WIRE)
    return kind(str(error), getattr(error, "retry_after", None))


class TrunkServicer:
    """Opens sessions on one engine, for clients with the same model and cut. Each session has a span."""

    def __init__(self, engine: Engine, info: ServiceInfo, metrics: TrunkMetrics, tracer: Tracer | None = None) -> None:
        self._engine = engine
        self._info = info
        self._metrics = metrics
        self._tracer = tracer or NoTracer()
        self._damage: str | None = None
        self._is_draining = False
        self._is_handing_over = False
        self._is_cutting_off = False
        self.n_sessions = 0
        """Open sessions."""
        self._ended = asyncio.Event()

    def info(self) -> ServiceInfo:
        pages, engine = self._engine.pages, self._engine
        load = ServiceLoad(
            engine.n_running,
            engine.n_waiting,
            pages.total * pages.page_size,
            engine.n_available_pages * pages.page_size,
        )
        damaged = {} if self._damage is None else {"damaged": self._damage}
        return replace(self._info, load=load, attributes={**self._info.attributes, **damaged})

    @property
    def fingerprint(self) -> str:
        """What a client of this worker's layers alone has."""
        return self._info.fingerprint

    def mark_damaged(self, damage: str) -> None:
        """Refuses all sessions and frames from here on: the weights do not match the fingerprint."""
        self._damage = damage

    @property
    def is_accepting(self) -> bool:
        """Whether it opens sessions: its weights are not known to be damaged, and it does not drain."""
        return self._damage is None and not self._is_draining

    def drain(self) -> None:
        """Refuses new sessions from here on; open ones go on."""
        self._is_draining = True
        self._metrics.draining.set(1)

    def hand_over(self) -> None:
        """Refuses further frames of open sessions too: their clients go on elsewhere. Running steps are answered."""
        self._is_handing_over = True

    def cut_off(self) -> None:
        """Must be called before the streams of the sessions that are left are cut off."""
        self._is_cutting_off = True

    async def drained(self) -> None:
        """Returns when no session is open."""
        while self.n_sessions:
            self._ended.clear()
            await self._ended.wait()

    def check(self) -> None:
        """Whether frames are accepted.

        Raises:
            Draining: the worker shuts down, and its open sessions had their time.
            FingerprintMismatch: the weights are known to be damaged.
        """
        if self._is_handing_over:
            raise Draining("this trunk is shutting down; go on with another one")
        if self._damage is not None:
            raise FingerprintMismatch(
                f"this trunk's weights are damaged: {self._damage}; copy the file again and restart the trunk"
            )

    async def open(self, opening: SessionOpening) -> "TrunkSession":
        """Raises:
        Draining: the worker shuts down.
        FingerprintMismatch: the client has another model, cut or dtype, or the trunk's weights are damaged.
        Overloaded: the session would wait too long.
        """
        if self._is_draining:
            raise Draining("this trunk is shutting down; open the session on another one")
        self.check()
        if opening.fingerprint != self._info.fingerprint:
            raise FingerprintMismatch(
                f"this trunk serves [{self._info.fingerprint}], the client expects [{clipped(opening.fingerprint)}]; "
                "give both the same weights, layers and dtype (a model by its name fits no converted directory)"
            )
        try:
            opened_at = _believed(opening.opened_at, time.time())
            session = self._engine.open(
                opening.max_length,
                opening.block_hashes,
                opening.owner,
                opened_at,
                refused_elsewhere=opening.refused_elsewhere,
            )
        except split.SplitError as error:
            raise on_the_wire(error) from error
        self._metrics.prefix_cache_queries.inc(len(opening.block_hashes) * self._engine.limits.block_size)
        log.info(
            "session opened",
            session=opening.session_id,
            max_length=opening.max_length,
            cached_rows=session.reached,
            **({"client": opening.client} if opening.client else {}),
        )
        if opening.client:
            self._metrics.client_sessions.labels(opening.client).inc()
        self.n_sessions += 1
        span = self._tracer.start("trunk_session", opening.context)
        span.set({"splitlearn.session": opening.session_id, "splitlearn.layers": self._info.attributes["layers"]})
        return TrunkSession(opening.session_id, self, self._engine, session, self._metrics, span)

    def closed(self, *, was_handed_over: bool) -> None:
        """Must be called once for each session that `open` returned, when it is closed."""
        if self._is_draining:
            outcome = "handed_over" if was_handed_over else "cut_off" if self._is_cutting_off else "ended"
            self._metrics.drained_sessions.labels(outcome).inc()
        self.n_sessions -= 1
        if not self.n_sessions:
            self._ended.set()

    async def expire(self, idle_seconds: float) -> None:
        """Frees the pages of idle sessions; runs until cancelled.

        An error is logged and does not end it: otherwise memory would be lost for good, without a trace.
        """
        while True:
            await asyncio.sleep(min(_EXPIRE_EVERY, idle_seconds))
            try:
                self._engine.expire(idle_seconds)
            except Exception as error:
                log.error("idle sessions could not be expired", error=repr(error), exc_info=error)


class TrunkSession:
    """One client's stream of frames. Owns its engine session until it is closed."""

    def __init__(
        self,
        name: str,
        servicer: TrunkServicer,
        engine: Engine,
        session: EngineSession,
        metrics: TrunkMetrics,
        span: Span,
    ) -> None:
        self._name = name
        self._servicer = servicer
        self._engine = engine
        self._session = session
        self._metrics = metrics
        self._span = span
        self._queue_seconds = 0.0
        self._compute_seconds = 0.0
        self._was_handed_over = False
        self._is_open = True
        self._steps_seen = 0

    def check(self, header: FrameHeader) -> None:
        """Raises what `step` would raise for a frame with this header; called before its rows are decoded."""
        session, part = self._session, self._engine.part
        self._check_open()
        try:
            if session.lost_pages and header.position > session.reached == 0:
                raise session.lost_rows()
            check_position(header.position, header.row_count, session.reached, session.max_length)
        except split.SplitError as error:
            raise on_the_wire(error) from error
        if header.shape is None:
            return
        if header.shape[1] != part.hidden_size:
            raise InvalidTensor(f"rows must have the shape [T, {part.hidden_size}], found {list(header.shape)}")
        if header.dtype != part.dtype:
            raise InvalidTensor(
                f"rows must be {_name(part.dtype)}, as the fingerprint says; found {_name(header.dtype)}"
            )

    async def step(self, frame: Frame) -> Reply:
        """Runs a frame.

        Raises:
            InvalidTensor, PositionNotReached, SessionTooLong, Overloaded: the session is unchanged.
            RemoteFailure, SessionClosed, FingerprintMismatch, Draining: the session has ended.
        """
        self._check_open()
        try:
            self._servicer.check()
        except Draining:
            self._was_handed_over = True
            raise
        arrived, self._steps_seen = time.perf_counter(), self._metrics.n_steps
        rows_TD = frame.rows if frame.rows is not None else self._no_rows()
        try:
            step = await self._engine.step(self._session, frame.position, rows_TD)
        except split.SplitError as error:
            refusal = on_the_wire(error)
            self._was_handed_over = isinstance(refusal, Draining)
            raise refusal from error
        self._metrics.rows.inc(rows_TD.shape[0])
        self._metrics.frame_queue.observe(step.timing.queue_seconds)
        self._metrics.frame_compute.observe(step.timing.compute_seconds)
        self._metrics.frame_latency.observe(time.perf_counter() - arrived)
        self._queue_seconds += step.timing.queue_seconds
        self._compute_seconds += step.timing.compute_seconds
        reply = Frame(frame.position, step.output if frame.rows is not None else None)
        return Reply(reply, step.timing.queue_seconds, step.timing.compute_seconds)

    def gets_on(self) -> bool:
        """Whether the current frame waits for admission, or a step has run since the last call, or the running one is
        not late."""
        before, self._steps_seen = self._steps_seen, self._metrics.n_steps
        engine = self._engine
        return engine.is_waiting(self._session) or self._steps_seen != before or engine.is_stepping_in_time()

    async def close(self) -> None:
        """Frees the KV cache, after a running step has ended."""
        rows, queue, compute = self._session.reached, round(self._queue_seconds, 4), round(self._compute_seconds, 4)
        log.info("session closed", session=self._name, rows=rows, queue_seconds=queue, compute_seconds=compute)
        self._is_open = False
        self._engine.close(self._session)
        self._span.set(
            {"splitlearn.rows": rows, "splitlearn.queue_seconds": queue, "splitlearn.compute_seconds": compute}
        )
        self._span.end("Draining" if self._was_handed_over else None)
        self._servicer.closed(was_handed_over=self._was_handed_over)

    @property
    def context(self) -> RequestContext:
        """For the session on the next stage."""
        return self._span.context

    @property
    def reached(self) -> int:
        return self._session.reached

    def finish(self, block_hashes: Sequence[bytes]) -> None:
        """Ends the session, and caches the rows of these blocks for later sessions."""
        self._check_open()
        self._is_open = False
        self._engine.close_and_cache(self._session, block_hashes)

    def _no_rows(self) -> torch.Tensor:
        return torch.empty(0, self._engine.part.hidden_size, dtype=self._engine.part.dtype)

    def _check_open(self) -> None:
        if not self._is_open:
            raise SessionClosed("the session is closed, or its rows are cached: it accepts no more frames")


def _believed(opened_at: float, now: float) -> float | None:
    """A client may say that a session is older than it is, which would put it before all others."""
    return min(max(opened_at, now - _OLDEST_SECONDS), now) if opened_at else None


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")
