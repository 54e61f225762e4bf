"""The session protocol of the trunk: a frame comes in, the engine runs its rows, a reply goes out.

The only place where the engine's errors become errors of the wire.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
import torch

from splitlearn import errors as split
from splitlearn.engine import Engine, EngineSession
from splitlearn_comm import (
    CommError,
    FingerprintMismatch,
    Frame,
    InvalidTensor,
    Overloaded,
    PositionNotReached,
    Reply,
    ServiceInfo,
    SessionOpening,
    SessionTooLong,
)
from trunk_service.metrics import TrunkMetrics

log = structlog.get_logger()

# Seconds between two looks for sessions that nobody uses.
_LOOK_EVERY = 5.0

_ON_THE_WIRE: dict[type[split.SplitError], type[CommError]] = {
    split.BadRows: InvalidTensor,
    split.PositionNotReached: PositionNotReached,
    split.ContextExceeded: SessionTooLong,
    split.EngineFull: Overloaded,
}


class TrunkHost:
    """Opens sessions on one engine for clients that hold the same model, cut in the same place."""

    def __init__(self, engine: Engine, info: ServiceInfo, metrics: TrunkMetrics) -> None:
        self._engine = engine
        self._info = info
        self._metrics = metrics

    def info(self) -> ServiceInfo:
        return self._info

    async def open(self, opening: SessionOpening) -> "TrunkSession":
        """Raises:
        FingerprintMismatch: the client holds another model, cut or dtype.
        """
        with self._counted():
            if opening.fingerprint != self._info.fingerprint:
                raise FingerprintMismatch(
                    f"this trunk serves [{self._info.fingerprint}], the client expects [{opening.fingerprint}]; "
                    "give both the same weights, layers and dtype"
                )
        session = self._engine.open(opening.max_length, opening.prefix)
        log.info(
            "session opened", session=opening.session_id, max_length=opening.max_length, begins_with=session.reached
        )
        return TrunkSession(opening.session_id, self._engine, session, self._metrics)

    async def expire(self, idle_seconds: float) -> None:
        """Takes the pages of sessions that nobody uses; runs until cancelled."""
        while True:
            await asyncio.sleep(min(_LOOK_EVERY, idle_seconds))
            self._engine.expire(idle_seconds)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except CommError as error:
            self._metrics.refusals.labels(type(error).__name__).inc()
            raise


class TrunkSession:
    """One client's stream of frames; owns the KV cache until it is closed."""

    def __init__(self, name: str, engine: Engine, session: EngineSession, metrics: TrunkMetrics) -> None:
        self._name = name
        self._engine = engine
        self._session = session
        self._metrics = metrics
        self._steps_seen = 0

    async def step(self, frame: Frame) -> Reply:
        """Raises InvalidTensor, PositionNotReached or SessionTooLong; the session then stays as it was."""
        arrived, self._steps_seen = time.perf_counter(), self._metrics.n_steps
        rows_TD = frame.rows if frame.rows is not None else self._no_rows()
        try:
            step = await self._engine.step(self._session, frame.position, rows_TD)
        except tuple(_ON_THE_WIRE) as error:
            refusal = _ON_THE_WIRE[type(error)]
            self._metrics.refusals.labels(refusal.__name__).inc()
            raise refusal(str(error), getattr(error, "retry_after", None)) from error
        self._metrics.rows.inc(rows_TD.shape[0])
        self._metrics.queue_seconds.observe(step.timing.queue_seconds)
        self._metrics.step_seconds.observe(step.timing.compute_seconds)
        self._metrics.request_seconds.observe(time.perf_counter() - arrived)
        reply = Frame(frame.position, step.output if frame.rows is not None else None)
        return Reply(reply, step.timing.queue_seconds, step.timing.compute_seconds)

    def gets_on(self) -> bool:
        """Whether the frame under way waits for room, or a step was run since this was asked last."""
        before, self._steps_seen = self._steps_seen, self._metrics.n_steps
        return self._engine.is_waiting(self._session) or self._steps_seen != before

    async def close(self) -> None:
        """Gives the KV cache back; a step that is still running keeps it until it ends."""
        log.info("session closed", session=self._name, rows=self._session.reached)
        self._engine.close(self._session)

    @property
    def reached(self) -> int:
        return self._session.reached

    def keep(self, names: Sequence[bytes]) -> None:
        self._engine.keep(self._session, names)

    def _no_rows(self) -> torch.Tensor:
        return torch.empty(0, self._engine.part.hidden_size, dtype=self._engine.part.dtype)
