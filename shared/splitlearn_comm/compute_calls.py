"""The server end of Compute: tensors in, tensors out, with the work on worker threads."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio

from splitlearn_comm import wire
from splitlearn_comm.admission import Admission, Place, lost_place
from splitlearn_comm.authentication import sender_of
from splitlearn_comm.core import PLAIN, ComputeFunction, ComputeOptions, TensorCodec, WireObserver, codec_named
from splitlearn_comm.errors import CommError, InvalidTensor, RemoteFailure, Unreachable
from splitlearn_comm.event_loop import expire
from splitlearn_comm.frames import ServiceInfo
from splitlearn_comm.outgoing import Outgoing
from splitlearn_comm.statuses import kind_of

_STOPPING: Final = "the server is stopping; ask another one, or this one later"


@dataclass
class _Exchange:
    """The codecs of one request and its reply, as far as they are known."""

    asked: TensorCodec = PLAIN
    answered: TensorCodec = PLAIN


class ComputeCalls:
    """Streams of computes on one function. `total_requests` counts all requests received, including refused ones."""

    def __init__(self, compute_fn: ComputeFunction, options: ComputeOptions, observer: WireObserver) -> None:
        self._compute_fn = compute_fn
        self._options = options
        self._observer = observer
        # Checked now, not when the first reply is packed, because an unknown codec is not the client's fault.
        codec_named(options.codec.name)
        self._workers = ThreadPoolExecutor(max_workers=options.max_workers, thread_name_prefix="compute")
        self._waiting: set[asyncio.Timeout] = set()
        self._set_up = asyncio.Event()
        self._stopping = False
        self.total_requests = 0

    def info(self) -> ServiceInfo:
        facts = {key: str(value) for key, value in self._compute_fn.get_info().items()}
        return ServiceInfo(
            service_name=facts.pop("service_name", type(self._compute_fn).__name__),
            version=facts.pop("version", self._options.version),
            device=facts.pop("device", ""),
            fingerprint=facts.pop("fingerprint", ""),
            attributes=facts,
        )

    async def setup(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._workers, self._compute_fn.setup)
        self._set_up.set()

    async def teardown(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._workers, self._compute_fn.teardown)
        self._workers.shutdown()

    def release_idle(self) -> None:
        """End streams that wait for a request now, and the others after their next reply."""
        self._stopping = True
        for patience in self._waiting:
            expire(patience)

    async def serve(self, context: grpc.aio.ServicerContext, outgoing: Outgoing, admission: Admission) -> None:
        """Serve one stream until the client has no more requests, the server stops, or the stream is evicted."""
        place: Place | None = None
        try:
            async with asyncio.timeout(None) as patience:
                sender = sender_of(context)
                place = admission.enter(time.monotonic(), lambda: expire(patience), sender)
                while (data := await self._next_request(context, patience)) is not grpc.aio.EOF:
                    admission.works(place)
                    answer = await self._answered(data, admission)
                    del data
                    with admission.sending(place, time.monotonic()):
                        await outgoing.write(answer)
                    del answer
                    admission.waits(place, time.monotonic())
        except TimeoutError:
            # otherwise the function raised it, which is a failure
            if not patience.expired():
                raise
            if place is not None and place.is_lost:
                raise lost_place() from None
            raise Unreachable(_STOPPING) from None
        finally:
            if place is not None:
                admission.leave(place)

    async def _next_request(self, context: grpc.aio.ServicerContext, patience: asyncio.Timeout) -> bytes:
        if self._stopping:
            raise Unreachable(_STOPPING)
        self._waiting.add(patience)
        try:
            request: bytes = await context.read()
        finally:
            self._waiting.discard(patience)
        return request

    async def _answered(self, data: bytes, admission: Admission) -> bytes:
        self.total_requests += 1
        running, exchange = asyncio.get_running_loop().run_in_executor, _Exchange()
        try:
            with admission.holding(len(data)):
                # a server accepts requests earlier, and further workers would not wait for the one that sets up
                await self._set_up.wait()
                answer = await running(self._workers, self._answer, data, time.perf_counter(), exchange)
        except CommError as refusal:
            self._observer.refused(kind_of(refusal))
            answer = wire.encode_compute_error(refusal)
        finally:
            self._observer.bytes_in(len(data), exchange.asked.name)
        self._observer.bytes_out(len(answer), exchange.answered.name)
        return answer

    def _answer(self, data: bytes, arrived: float, exchange: _Exchange) -> bytes:
        """Runs on a worker thread, including the codecs, so that the event loop only passes bytes on."""
        began = time.perf_counter()
        tensor, asked = wire.decode_compute(data)
        exchange.asked = codec_named(asked)
        exchange.answered = self._options.codec if asked == PLAIN.name else exchange.asked
        started = time.perf_counter()
        output = self._compute_fn.compute(tensor)
        computed = wire.Computed(output, began - arrived, time.perf_counter() - started)
        try:
            return wire.encode_computed(computed, exchange.answered)
        except InvalidTensor as error:
            raise RemoteFailure(f"the reply cannot be sent: {error}") from error
