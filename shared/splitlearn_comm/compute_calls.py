"""The server's side of Compute: tensors in, tensors out, the work on worker threads."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio

from splitlearn_comm import wire
from splitlearn_comm.core import PLAIN, ComputeFunction, ComputeOptions, WireObserver, codec_named
from splitlearn_comm.errors import CommError, InvalidTensor, RemoteFailure, Unreachable
from splitlearn_comm.frames import ServiceInfo


class ComputeCalls:
    """Streams of computes on one function. `total_requests` counts those that came, refused ones too."""

    def __init__(self, compute_fn: ComputeFunction, options: ComputeOptions, observer: WireObserver) -> None:
        self._compute_fn = compute_fn
        self._options = options
        self._observer = observer
        # Now, and not when the first reply is packed, which would be no fault of the client's.
        codec_named(options.codec.name)
        self._workers = ThreadPoolExecutor(max_workers=options.max_workers, thread_name_prefix="compute")
        self._waiting: set[asyncio.Task[None]] = set()
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

    async def teardown(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._workers, self._compute_fn.teardown)
        self._workers.shutdown()

    def release_idle(self) -> None:
        """End the streams that wait for a request, now, and the others after their next reply."""
        self._stopping = True
        for task in self._waiting:
            task.cancel()

    async def serve(self, context: grpc.aio.ServicerContext) -> None:
        """One stream, request after request, until the client has no more or the server stops."""
        loop = asyncio.get_running_loop()
        while (data := await self._next_request(context)) is not grpc.aio.EOF:
            self._observer.bytes_in(len(data))
            self.total_requests += 1
            answer = await loop.run_in_executor(self._workers, self._answer, data, time.perf_counter())
            self._observer.bytes_out(len(answer))
            await context.write(answer)

    async def _next_request(self, context: grpc.aio.ServicerContext) -> bytes:
        if self._stopping:
            raise Unreachable("the server is stopping; ask another one, or this one later")
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("grpc runs every call in a task")
        self._waiting.add(task)
        try:
            request: bytes = await context.read()
        except asyncio.CancelledError:
            # Ours, and not the client's doing, which would have cancelled the task as well.
            if self._stopping and task.uncancel() == 0:
                raise Unreachable("the server is stopping; ask another one, or this one later") from None
            raise
        finally:
            self._waiting.discard(task)
        return request

    def _answer(self, data: bytes, arrived: float) -> bytes:
        """On a worker thread, codecs included, so that the event loop only passes bytes on."""
        began = time.perf_counter()
        try:
            tensor, asked = wire.decode_compute(data)
            started = time.perf_counter()
            output = self._compute_fn.compute(tensor)
            computed = wire.Computed(output, began - arrived, time.perf_counter() - started)
        except CommError as refusal:
            return wire.encode_compute_error(refusal)
        try:
            return wire.encode_computed(computed, self._options.codec if asked == PLAIN.name else codec_named(asked))
        except InvalidTensor as error:
            return wire.encode_compute_error(RemoteFailure(f"the reply cannot be sent: {error}"))
