"""A client that means harm, as a process of its own: `python abuser.py ADDRESS`, of a trunk.

Each line in is a command: `prepare ABUSE` makes what the abuse sends, `abuse ABUSE` sends it, `release` gives up the
streams that an abuse left open. Each line out is the command's end, in JSON: how the streams of an abuse were refused,
as {kind of the error: number}.
"""

import asyncio
import json
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from splitlearn_comm import AsyncGRPCComputeClient, wire
from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.byte_stream import at_once
from splitlearn_comm.statuses import KIND_KEY

WIDTH = 64
MIB = 2**20
# what a trunk takes in one message
LIMIT = 4 * MIB
OPENS = 3600

Requests = Sequence[bytes]
Refusals = Counter[str]


class Stream:
    """One raw stream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call: Any = channel.stream_stream(f"/{wire.SERVICE}/Stream")()
        self.refusal: str | None = None
        self.ended = asyncio.Event()
        self.call.add_done_callback(self._keep_refusal)

    async def run(self, requests: Requests) -> str:
        """How the stream was refused, or the last of its frames; "" if it was not."""
        refusal = ""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for request in requests:
                await self.call.write(request)
            await self.call.done_writing()
            while (data := await self.call.read()) is not grpc.aio.EOF:
                refusal = pb2.StreamReply.FromString(data).error.kind
        await self.ended.wait()
        return self.refusal or refusal

    def _keep_refusal(self, call: Any) -> None:
        # Now: grpc puts INTERNAL in its place when a write fails after it (grpc/grpc issue 36066).
        code = at_once(call.code())
        if code is not grpc.StatusCode.OK:
            told = dict(at_once(call.trailing_metadata()) or ())
            self.refusal = str(told.get(KIND_KEY, code.name))
        self.ended.set()


class Abuser:
    """Everything that is done to a trunk of rows of WIDTH float32."""

    def __init__(self, address: str, fingerprint: str) -> None:
        self._address = address
        self._fingerprint = fingerprint
        self._channel = self._connected()
        self._requests: Requests = ()
        self._left_open: list[Stream] = []
        # what each stream sends, and how many there are
        self._abuses: dict[str, tuple[Callable[[], Requests], int]] = {
            "first messages of 60 MiB": (lambda: [self._stranger(60 * MIB)], 30),
            "first messages of 4 MiB": (lambda: [self._stranger(LIMIT - 8192)], 30),
            "hashes of 50 MiB": (lambda: [self._open(), finished(bytes(50 * MIB))], 12),
            "hashes of 3 MiB": (lambda: [self._open(), finished(bytes(3 * MIB))], 12),
            # as much as is parsed
            "130,000 hashes": (lambda: [self._open(block_hashes=[b""] * 130_000)], 120),
            "a million hashes": (lambda: [self._open(block_hashes=[b""] * 1_000_000)], 60),
            "int8 of [13000000, 1]": (lambda: [self._open(), int8_column(13_000_000)], 12),
            "int8 of [600000, 1]": (lambda: [self._open(), int8_column(600_000)], 30),
            "zlib that claims 64 MiB": (lambda: [self._open(), *[zlib_of(64 * MIB, 64 * MIB)] * 8], 30),
            "zlib that claims 4 MiB": (lambda: [self._open(), *[zlib_of(4 * MIB, 4 * MIB)] * 8], 30),
            "zlib that hides 64 MiB": (lambda: [self._open(), *[zlib_of(64 * MIB, 2**14)] * 8], 30),
            "a million dimensions": (lambda: [self._open(), rows([1] * 1_000_000, b"")], 60),
            "ids of 5 MB": (lambda: [self._open(session_id="x\n" * 2_500_000)], 12),
            "ids of 3 MB": (lambda: [self._open(session_id="x\n" * 1_500_000)], 12),
            "ids of two lines": (lambda: [self._open(session_id='one\n{"event": "forged"}')], 1),
            "frames after finish": (self._zombie, 12),
        }

    async def do(self, command: str, what: str) -> Refusals | None:
        match command:
            case "prepare":
                self._requests = [self._open()] if what == "opens" else self._abuses[what][0]()
            case "abuse" if what == "opens":
                return await self._flood()
            case "abuse":
                return await self._send(self._abuses[what][1])
            case "refused":
                return refusals_of(self._left_open)
            case "release":
                while self._left_open:
                    self._left_open.pop().call.cancel()
        return None

    async def _send(self, n: int) -> Refusals:
        """Half of the streams on one connection, the others on one each."""
        channels = [self._channel if i % 2 else self._connected() for i in range(n)]
        try:
            return Counter(await asyncio.gather(*(Stream(channel).run(self._requests) for channel in channels)))
        finally:
            for channel in set(channels) - {self._channel}:
                await channel.close()

    async def _flood(self) -> Refusals:
        """Opens that no frame follows. Those that the trunk lets in stay, until it evicts them for later ones."""
        streams = [Stream(self._channel) for _ in range(OPENS)]
        for stream in streams:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await stream.call.write(self._requests[0])
        asked = [asyncio.ensure_future(first_of(stream)) for stream in streams]
        await asyncio.wait(asked)
        self._left_open = streams
        return refusals_of(streams)

    def _connected(self) -> grpc.aio.Channel:
        options = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
        return grpc.aio.insecure_channel(self._address, options=options)

    def _opening(self, **fields: Any) -> pb2.StreamRequest:
        known = {"session_id": "hostile", "fingerprint": self._fingerprint, "max_length": 100}
        return pb2.StreamRequest(open=pb2.Open(**{**known, **fields}))

    def _open(self, **fields: Any) -> bytes:
        return self._opening(**fields).SerializeToString()

    def _stranger(self, size: int) -> bytes:
        n = size // (4 * WIDTH)
        return self._open(fingerprint="other") + rows([n, WIDTH], bytes(4 * WIDTH * n))

    def _zombie(self) -> Requests:
        after = pb2.StreamRequest.FromString(rows([1, WIDTH], bytes(4 * WIDTH)))
        after.frame.position = 64
        first = self._open() + rows([64, WIDTH], bytes(64 * 4 * WIDTH))
        return [first, finished(b"one", b"two"), after.SerializeToString()]


def refusals_of(streams: Sequence[Stream]) -> Refusals:
    return Counter(stream.refusal for stream in streams if stream.refusal is not None)


async def first_of(stream: Stream) -> None:
    """Until the trunk has let the stream in, or refused it."""
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await stream.call.initial_metadata()
        return
    await stream.ended.wait()


def finished(*hashes: bytes) -> bytes:
    return pb2.StreamRequest(finish=pb2.Finish(block_hashes=hashes)).SerializeToString()


def rows(shape: Sequence[int], data: bytes, codec: pb2.Codec.ValueType = pb2.CODEC_NONE) -> bytes:
    tensor = pb2.Tensor(dtype=pb2.DTYPE_FLOAT32, shape=shape, data=data, codec=codec)
    return pb2.StreamRequest(frame=pb2.Frame(rows=tensor)).SerializeToString()


def int8_column(n: int) -> bytes:
    """Rows of one value each: a byte, and four for the scale."""
    return rows([n, 1], bytes(5 * n), pb2.CODEC_INT8)


def zlib_of(size: int, claimed: int) -> bytes:
    return rows([claimed // (4 * WIDTH), WIDTH], zlib.compress(bytes(size), 9), pb2.CODEC_ZLIB)


async def main(address: str) -> None:
    abuser: Abuser | None = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        # the trunk may have begun to serve only now
        abuser = abuser or Abuser(address, await fingerprint_of(address))
        command, _, what = line.strip().partition(" ")
        print(json.dumps(await abuser.do(command, what)), flush=True)


async def fingerprint_of(address: str) -> str:
    async with AsyncGRPCComputeClient(address) as client:
        return (await client.service_info()).fingerprint


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
