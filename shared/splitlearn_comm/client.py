"""The client end: one channel to all addresses of a name, a stream per session, and calls for everything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from types import TracebackType
from typing import Self, TypeVar
from weakref import WeakSet

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from torch import Tensor

from splitlearn_comm import forks, wire
from splitlearn_comm.access import Access, Secured
from splitlearn_comm.byte_stream import ByteStream, is_being_cancelled
from splitlearn_comm.client_statistics import ClientStatistics
from splitlearn_comm.client_stream import ClientStream
from splitlearn_comm.compute_streams import ComputeStreams
from splitlearn_comm.core import PLAIN, SessionOpening, TensorCodec, codec_named
from splitlearn_comm.errors import Cancelled, Unreachable
from splitlearn_comm.frames import ServiceInfo
from splitlearn_comm.messages import parse
from splitlearn_comm.options import MAX_MESSAGE_BYTES, channel_options, channel_target
from splitlearn_comm.retry import RetryStrategy
from splitlearn_comm.statuses import error_of

_T = TypeVar("_T")

_HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_HEALTH_WATCH = "/grpc.health.v1.Health/Watch"


class AsyncGRPCComputeClient:
    """Talks to the server, or to all replicas, at `target`. Connects on the first call, and reconnects when needed.

    Every method raises only CommErrors: Unreachable when no server answers, TimedOut when the answer is late, Forked in
    a process that was forked from one that had used gRPC.

    Args:
        target: `host:port`, with an IPv6 host in brackets. If a name has several addresses, each new stream uses the
            next one.
        timeout: seconds that a call may take, unless the call sets its own. Each retry gets the full timeout.
        retry_strategy: for compute; None tries once.
        codec: for compute; encodes tensors in both directions.
        most_received: the largest message in bytes that the server may send; a larger one ends its call.
        access: encryption and token; None connects in clear and without a token. If it has a fingerprint, the first
            call must be none of `stream`, which cannot wait until the certificate is compared.
        server_name: the name in the server's certificate, where `target` is another.

    Raises:
        UnknownCodec: servers do not have this codec.
        InvalidAddress: the target is not an address.
        BadToken: the token would be sent in clear to another machine.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float = 10.0,
        retry_strategy: RetryStrategy | None = None,
        codec: TensorCodec | None = None,
        most_received: int = MAX_MESSAGE_BYTES,
        access: Access | None = None,
        server_name: str | None = None,
    ) -> None:
        self.target = target
        self._options = channel_options(most_received)
        self._access = access or Access()
        self._access.check(target)
        # what the fingerprint was compared with, for as long as the connection is used
        self._compared: Secured | None = None
        self._comparing = asyncio.Lock()
        if server_name is not None:
            self._options += (("grpc.ssl_target_name_override", server_name),)
        self._grpc_target = channel_target(target)
        self.timeout = timeout
        self._retry_strategy = retry_strategy
        self._codec = codec or PLAIN
        codec_named(self._codec.name)
        self._channel: grpc.aio.Channel | None = None
        self._streams: WeakSet[ByteStream] = WeakSet()
        self._compute_streams = ComputeStreams(lambda: self._open_stream("Compute", "the call of Compute"))
        self._statistics = ClientStatistics()
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._streams)} streams"
        return f"<{type(self).__name__} {self.target} {state}>"

    async def connect(self, timeout: float | None = None) -> None:
        """Check early that a server answers. Optional."""
        await self.service_info(timeout)

    async def compute(self, tensor: Tensor, timeout: float | None = None) -> Tensor:
        """Send one tensor through the server's compute function, and return its output.

        Transient failures are retried with the same request, as the strategy says: a server may compute it more than
        once.
        """
        # before a pool thread is asked to encode, because no thread survives a fork
        forks.check()
        if self._codec.is_expensive(tensor):
            request = await asyncio.to_thread(wire.encode_compute, tensor, self._codec)
        else:
            request = wire.encode_compute(tensor, self._codec)
        counted = self._statistics
        counted.total_requests += 1
        attempts = 0

        async def attempt() -> Tensor:
            nonlocal attempts
            attempts += 1
            counted.bytes_sent += len(request)
            began = time.perf_counter()
            await self._compare(self.timeout if timeout is None else timeout)
            reply = await self._compute_streams.exchange(request, timeout)
            counted.bytes_received += len(reply)
            computed = wire.decode_computed(reply)
            counted.round_trip_seconds += time.perf_counter() - began
            counted.queue_seconds += computed.queue_seconds
            counted.compute_seconds += computed.compute_seconds
            return computed.tensor

        failed = True
        try:
            output = await (self._retry_strategy.execute_async(attempt) if self._retry_strategy else attempt())
            failed = False
        finally:
            counted.retries += max(0, attempts - 1)
            counted.failed_requests += failed
        return output

    def get_statistics(self) -> dict[str, int | float]:
        """Counts and average times of this client's computes; see ClientStatistics.summary."""
        return self._statistics.summary()

    async def service_info(self, timeout: float | None = None) -> ServiceInfo:
        """What the server reports about itself; if there are several replicas, one of them answers."""
        data = await self._call(f"/{wire.SERVICE}/GetServiceInfo", b"", timeout)
        return wire.decode_info(data)

    async def health(self, timeout: float | None = None) -> bool:
        """Whether the server reports that it is serving. Raises Unreachable when no server answers."""
        request = health_pb2.HealthCheckRequest(service=wire.SERVICE)
        data = await self._call(_HEALTH_CHECK, request.SerializeToString(), timeout)
        response = parse(health_pb2.HealthCheckResponse(), data)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def watch_health(self) -> AsyncGenerator[bool]:
        """Whether the server reports that it is serving: now, and again at each change, until the connection ends.

        There is no timeout: a server that is frozen or cut off says nothing either.

        Raises:
            Unreachable: no server answers, or the connection ended.
            NotServed: the server has no health service.
        """
        request = health_pb2.HealthCheckRequest(service=wire.SERVICE).SerializeToString()
        await self._compare(self.timeout)
        call = self._open_channel().unary_stream(_HEALTH_WATCH)(request, metadata=self._access.metadata())
        try:
            while (data := await self._awaited(call.read())) is not grpc.aio.EOF:
                yield parse(health_pb2.HealthCheckResponse(), data).status == health_pb2.HealthCheckResponse.SERVING
        finally:
            call.cancel()
        raise Unreachable(f"{self.target} ended the watch of its health")

    def stream(self, opening: SessionOpening) -> ClientStream:
        """A session, which its first frame opens. Use it as a context manager, or close it.

        Raises:
            UnknownCodec: this end does not have the codec of the opening.
        """
        codec_named(opening.codec)
        return ClientStream(self._open_stream("Stream", f"session {opening.session_id!r}"), opening)

    async def renew_credentials(self) -> None:
        """Let later calls connect anew, with credentials that are read again. Call it while the server is unreachable.

        Does nothing without TLS, or before all streams have ended: they would be cancelled, and could not say why the
        server did not answer. Other calls in progress are cancelled.
        """
        if not self._access.is_encrypted or self._channel is None or not all(each.ended for each in self._streams):
            return
        channel, self._channel, self._compared = self._channel, None, None
        await channel.close()

    async def close(self) -> None:
        """Cancel everything in progress and disconnect. Closing twice does nothing."""
        self._closed = True
        for stream in list(self._streams):
            stream.cancel()
        if self._channel is not None and not forks.is_forked():
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    def _open_stream(self, method: str, name: str) -> ByteStream:
        call = self._open_channel().stream_stream(f"/{wire.SERVICE}/{method}")(metadata=self._access.metadata())
        stream = ByteStream(call, name=name, address=self.target, timeout=self.timeout)
        self._streams.add(stream)
        return stream

    def _open_channel(self) -> grpc.aio.Channel:
        if self._closed:
            raise Cancelled(f"the client of {self.target} is closed")
        forks.check()
        # Not in the constructor: a channel belongs to the event loop that was running when it was created.
        if self._channel is None:
            secured = self._secured()
            options = (*self._options, *(() if secured is None else secured.options))
            if secured is None:
                self._channel = grpc.aio.insecure_channel(self._grpc_target, options=options)
            else:
                self._channel = grpc.aio.secure_channel(self._grpc_target, secured.credentials, options=options)
        return self._channel

    def _secured(self) -> Secured | None:
        if self._access.fingerprint is None:
            return self._access.secured()
        if self._compared is None:
            raise Unreachable(f"the certificate of {self.target} was not compared yet; call connect first")
        return self._compared

    async def _compare(self, timeout: float) -> None:
        """Must be awaited before a call that may open the connection: compares the certificate with a fingerprint."""
        if self._access.fingerprint is None or self._compared is not None or self._closed:
            return
        async with self._comparing:
            self._compared = self._compared or await self._access.compared(self.target, timeout)

    async def _call(self, path: str, request: bytes, timeout: float | None) -> bytes:
        timeout = self.timeout if timeout is None else timeout
        await self._compare(timeout)
        call = self._open_channel().unary_unary(path)
        answer: bytes = await self._awaited(call(request, timeout=timeout, metadata=self._access.metadata()))
        return answer

    async def _awaited(self, answer: Awaitable[_T]) -> _T:
        """What grpc answers, with its errors as CommErrors."""
        try:
            return await answer
        except grpc.aio.AioRpcError as failure:
            status = failure.code(), failure.details(), failure.trailing_metadata()
            raise error_of(status, self.target) from None
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            raise Cancelled(f"the client of {self.target} was closed during the call") from None
