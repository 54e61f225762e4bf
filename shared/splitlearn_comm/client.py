"""The client end: one channel to all addresses of a name, streams for sessions, calls for the rest."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self
from weakref import WeakSet

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from torch import Tensor

from splitlearn_comm import wire
from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.client_stream import ClientStream, is_being_cancelled
from splitlearn_comm.core import SessionOpening
from splitlearn_comm.errors import Cancelled
from splitlearn_comm.frames import ServiceInfo
from splitlearn_comm.options import CHANNEL_OPTIONS, channel_target

_HEALTH_CHECK = "/grpc.health.v1.Health/Check"


class AsyncGRPCComputeClient:
    """Talks to the server, or all replicas, at `target`. Connects at the first call, and again when it must.

    Every method raises CommErrors only: Unreachable when nobody answers, TimedOut when the answer is late.

    Args:
        target: `host:port`. Of a name with several addresses each new stream takes the next.
        timeout: seconds that a call waits at most, unless it is told otherwise.
    """

    def __init__(self, target: str, *, timeout: float = 10.0) -> None:
        self.target = target
        self.timeout = timeout
        self._channel: grpc.aio.Channel | None = None
        self._streams: WeakSet[ClientStream] = WeakSet()
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._streams)} streams"
        return f"<{type(self).__name__} {self.target} {state}>"

    async def connect(self, timeout: float | None = None) -> None:
        """Not needed, but tells early whether somebody answers."""
        await self.service_info(timeout)

    async def compute(self, tensor: Tensor, timeout: float | None = None) -> Tensor:
        """One tensor in, one tensor out, through the server's compute function."""
        request = pb2.ComputeRequest()
        wire.write_tensor(request.tensor, tensor)
        data = await self._call(f"/{wire.SERVICE}/Compute", wire.serialize(request), timeout)
        return wire.read_tensor(wire.parse(pb2.ComputeResponse(), data).tensor)

    async def service_info(self, timeout: float | None = None) -> ServiceInfo:
        """What the server says of itself; of several replicas, one."""
        data = await self._call(f"/{wire.SERVICE}/GetServiceInfo", b"", timeout)
        return wire.decode_info(data)

    async def health(self, timeout: float | None = None) -> bool:
        """Whether the server says that it serves. Raises Unreachable when there is nobody to say so."""
        request = health_pb2.HealthCheckRequest(service=wire.SERVICE)
        data = await self._call(_HEALTH_CHECK, request.SerializeToString(), timeout)
        response = wire.parse(health_pb2.HealthCheckResponse(), data)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def stream(self, opening: SessionOpening) -> ClientStream:
        """A session, opened by the first frame that is sent. Use it as a context, or close it."""
        call = self._open_channel().stream_stream(f"/{wire.SERVICE}/Stream")()
        stream = ClientStream(call, opening, address=self.target, timeout=self.timeout)
        self._streams.add(stream)
        return stream

    async def close(self) -> None:
        """Cancel what is under way and hang up. Closing twice does nothing."""
        self._closed = True
        for stream in list(self._streams):
            stream.cancel()
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    def _open_channel(self) -> grpc.aio.Channel:
        if self._closed:
            raise Cancelled(f"the client of {self.target} is closed")
        # Not in the constructor: a channel belongs to the event loop in which it was made.
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(channel_target(self.target), options=CHANNEL_OPTIONS)
        return self._channel

    async def _call(self, path: str, request: bytes, timeout: float | None) -> bytes:
        call = self._open_channel().unary_unary(path)
        try:
            answer: bytes = await call(request, timeout=self.timeout if timeout is None else timeout)
        except grpc.aio.AioRpcError as failure:
            status = failure.code(), failure.details(), failure.trailing_metadata()
            raise wire.error_of(status, self.target) from None
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            raise Cancelled(f"the client of {self.target} was closed during the call") from None
        return answer
