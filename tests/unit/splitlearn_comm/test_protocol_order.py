"""Messages of the protocol in any order, on several streams at a time, against a model of what each must get.

Over real grpc, as bytes: no client of ours stands between. Shapes: T rows of width 2.
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from splitlearn_comm import wire
from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.loop_thread import loop_thread
from splitlearn_comm.message_size import MOST_BESIDE_DATA
from splitlearn_comm.server import AsyncGRPCComputeServer
from splitlearn_comm.statuses import KIND_KEY
from splitlearn_comm.testing import EchoSessionHost
from support.running_split import until

LIMIT = 6
WIDTH = 2
HASHES = [b"block %d" % i for i in range(LIMIT)]
SECONDS = 20
PLACES = st.integers(0, 2)
READY = st.sampled_from([True, True, True, False])


def frame(position: int, n_rows: int | None) -> pb2.Frame:
    if n_rows is None:
        return pb2.Frame(position=position)
    data = bytes(4 * WIDTH * n_rows)
    return pb2.Frame(position=position, rows=pb2.Tensor(dtype=pb2.DTYPE_FLOAT32, shape=[n_rows, WIDTH], data=data))


def opening(**fields: Any) -> pb2.Open:
    return pb2.Open(**{"session_id": "one", "fingerprint": "echo", "max_length": LIMIT, **fields})


# Of openings that open nothing: what is wrong, and the error.
BAD_OPENINGS: dict[str, tuple[pb2.Open, str]] = {
    "fingerprint": (opening(fingerprint="other"), "FingerprintMismatch"),
    "long fingerprint": (opening(fingerprint="e" * 2000), "InvalidRequest"),
    "no rows": (opening(max_length=0), "InvalidRequest"),
    "negative rows": (opening(max_length=-1), "InvalidRequest"),
    "long id": (opening(session_id="x" * 129), "InvalidRequest"),
    "id of two lines": (opening(session_id="x\ny"), "InvalidRequest"),
    "id that is not ASCII": (opening(session_id="ü"), "InvalidRequest"),
    "more hashes than rows": (opening(block_hashes=[b"n"] * (LIMIT + 1)), "InvalidRequest"),
    "long hash": (opening(block_hashes=[b"n" * 65]), "InvalidRequest"),
    "empty hash": (opening(block_hashes=[b""]), "InvalidRequest"),
}
# Frames that are refused in their place, wherever they come.
BAD_FRAMES: dict[str, tuple[pb2.Frame, str]] = {
    "negative position": (frame(-1, None), "InvalidRequest"),
    "no dtype": (pb2.Frame(rows=pb2.Tensor()), "InvalidTensor"),
    "one dimension": (pb2.Frame(rows=pb2.Tensor(dtype=pb2.DTYPE_UINT8, shape=[4], data=bytes(4))), "InvalidTensor"),
    "too few bytes": (
        pb2.Frame(rows=pb2.Tensor(dtype=pb2.DTYPE_FLOAT32, shape=[1, 2], data=bytes(7))),
        "InvalidTensor",
    ),
    "far too many rows": (
        pb2.Frame(rows=pb2.Tensor(dtype=pb2.DTYPE_FLOAT32, shape=[2**62, 2], data=bytes(8))),
        "InvalidTensor",
    ),
    "int8 of integers": (
        pb2.Frame(rows=pb2.Tensor(dtype=pb2.DTYPE_INT64, shape=[1, 2], data=bytes(6), codec=pb2.CODEC_INT8)),
        "InvalidTensor",
    ),
}


@dataclass(eq=False)
class Stream:
    """One call, and what the model knows of its session."""

    call: Any
    name: str
    state: str = "new"
    reached: int = 0
    sent: list[str] = field(default_factory=list)


class Protocol(RuleBasedStateMachine):
    """`expect` is the model's word on each message: the replies, and the error that ends the stream, if one does."""

    def __init__(self) -> None:
        super().__init__()
        self.host = EchoSessionHost()
        self.places: list[Any] = [None] * 3
        self.all: list[Stream] = []
        self.cached: dict[bytes, int] = {}
        self.stack = AsyncExitStack()
        loop_thread().run(self._start())

    async def _start(self) -> None:
        server = await self.stack.enter_async_context(AsyncGRPCComputeServer(session_host=self.host))
        channel = await self.stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{server.port}"))
        self.method = channel.stream_stream(f"/{wire.SERVICE}/Stream")

    def teardown(self) -> None:
        loop_thread().run(self._stop())

    async def _stop(self) -> None:
        for stream in self.all:
            stream.call.cancel()
        await asyncio.wait_for(self.stack.aclose(), SECONDS)
        assert {session.times_closed for session in self.host.sessions} <= {1}

    def exchange(self, stream: Stream, what: str, data: bytes, replies: list[str], end: str | None) -> None:
        stream.sent.append(what)
        got, error = loop_thread().run(self._exchange(stream.call, data, len(replies), end is not None))
        assert (got, error) == (replies, end), stream.sent
        if end is not None:
            stream.state = "ended"

    async def _exchange(self, call: Any, data: bytes, n: int, ends: bool) -> tuple[list[str], str | None]:
        async with asyncio.timeout(SECONDS):
            await call.write(data)
            got = []
            for _ in range(n):
                message = await call.read()
                if message is grpc.aio.EOF:
                    break
                reply = pb2.StreamReply.FromString(message)
                got.append(reply.error.kind or str(reply.WhichOneof("outcome")))
            if not ends:
                return got, None
            code = await call.code()
            kinds = dict(await call.trailing_metadata())
            assert code is not grpc.StatusCode.OK
            return got, kinds.get(KIND_KEY, code.name)

    def stream(self, place: int, ready: bool = False) -> Stream:
        """One of three at a time; a new one where the last one has ended, `ready` if it is to be open."""
        if self.places[place] is None or self.places[place].state == "ended":

            async def begin() -> Any:
                return self.method()

            self.places[place] = Stream(loop_thread().run(begin()), f"stream {len(self.all)}")
            self.all.append(self.places[place])
        stream: Stream = self.places[place]
        if ready and stream.state == "new":
            request = pb2.StreamRequest(open=opening(session_id=stream.name), frame=frame(0, 1))
            self.exchange(stream, "open with a frame", request.SerializeToString(), ["frame"], None)
            stream.state, stream.reached = "open", 1
        return stream

    @rule(place=PLACES, n_hashes=st.integers(0, LIMIT), asks=st.booleans(), first=st.sampled_from(["", "frame", "gap"]))
    def opens(self, place: int, n_hashes: int, asks: bool, first: str) -> None:
        stream = self.stream(place)
        opened = opening(session_id=stream.name, block_hashes=HASHES[:n_hashes], asks_first=asks)
        request = pb2.StreamRequest(open=opened)
        reached = max((self.cached.get(name, 0) for name in HASHES[:n_hashes]), default=0)
        replies = ["opened"] if n_hashes or asks else []
        if first:
            request.frame.CopyFrom(frame(0, 1) if first == "frame" else frame(LIMIT + 1, 1))
            replies.append("frame" if first == "frame" else "PositionNotReached")
        what = f"open with {n_hashes} hashes and {first or 'nothing'}{', asking first' * asks}"
        if stream.state != "new":
            self.breaks(stream, what, request)
            return
        self.exchange(stream, what, request.SerializeToString(), replies, None)
        stream.state, stream.reached = "open", 1 if first == "frame" else reached

    @rule(place=PLACES, why=st.sampled_from(sorted(BAD_OPENINGS)), with_frame=st.booleans())
    def opens_badly(self, place: int, why: str, with_frame: bool) -> None:
        stream = self.stream(place)
        bad, error = BAD_OPENINGS[why]
        request = pb2.StreamRequest(open=bad)
        if with_frame:
            request.frame.CopyFrom(frame(0, 1))
        if stream.state != "new":
            self.breaks(stream, f"open with {why}", request)
        else:
            self.exchange(stream, f"open with {why}", request.SerializeToString(), [], error)

    @rule(
        place=PLACES,
        ready=READY,
        position=st.integers(0, LIMIT + 1),
        n_rows=st.one_of(st.none(), st.integers(0, LIMIT + 1)),
    )
    def sends(self, place: int, ready: bool, position: int, n_rows: int | None) -> None:
        stream = self.stream(place, ready)
        what, request = f"{n_rows} rows at {position}", pb2.StreamRequest(frame=frame(position, n_rows))
        if stream.state != "open":
            self.breaks(stream, what, request)
            return
        length = position + (n_rows or 0)
        reply = "PositionNotReached" if position > stream.reached else "SessionTooLong" if length > LIMIT else "frame"
        self.exchange(stream, what, request.SerializeToString(), [reply], None)
        stream.reached = length if reply == "frame" else stream.reached

    @rule(place=PLACES, ready=READY, why=st.sampled_from(sorted(BAD_FRAMES)))
    def sends_badly(self, place: int, ready: bool, why: str) -> None:
        stream = self.stream(place, ready)
        bad, error = BAD_FRAMES[why]
        self.in_its_place(stream, why, pb2.StreamRequest(frame=bad).SerializeToString(), error)

    @rule(place=PLACES, ready=READY)
    def sends_two_frames_in_one(self, place: int, ready: bool) -> None:
        stream = self.stream(place, ready)
        one = pb2.StreamRequest(frame=frame(0, 1)).SerializeToString()
        # protobuf joins them: a shape of four dimensions
        self.in_its_place(stream, "two frames in one", one + one, "InvalidTensor")

    @rule(place=PLACES, ready=READY, data=st.sampled_from([b"", bytes([15 << 3, 1])]))
    def sends_nothing(self, place: int, ready: bool, data: bytes) -> None:
        stream = self.stream(place, ready)
        self.in_its_place(stream, f"{data!r}, in which nothing is known", data, "InvalidRequest")

    def in_its_place(self, stream: Stream, what: str, data: bytes, error: str) -> None:
        if stream.state == "open":
            self.exchange(stream, what, data, [error], None)
        else:
            self.breaks(stream, what, pb2.StreamRequest.FromString(data))

    @rule(place=PLACES, ready=READY)
    def sends_what_is_no_message(self, place: int, ready: bool) -> None:
        stream = self.stream(place, ready)
        self.exchange(stream, "no message", b"\xff\xff\xff", [], "InvalidRequest")

    @rule(place=PLACES, ready=READY, n_hashes=st.integers(0, LIMIT))
    def finishes(self, place: int, ready: bool, n_hashes: int) -> None:
        stream = self.stream(place, ready)
        request = pb2.StreamRequest(finish=pb2.Finish(block_hashes=HASHES[:n_hashes]))
        if stream.state != "open":
            self.breaks(stream, "finish", request)
            return
        self.exchange(stream, f"finish {n_hashes}", request.SerializeToString(), [], None)
        # sent, and not answered: known once the stream has ended, or another message was refused
        stream.state = "finished"
        self.cached |= {name: i + 1 for i, name in enumerate(HASHES[:n_hashes]) if i < stream.reached}
        self.settles()

    @rule(
        place=PLACES,
        ready=READY,
        hashes=st.sampled_from([[b"n" * 65], [b""], HASHES + HASHES, [bytes(2**20)]]),
        with_frame=st.booleans(),
    )
    def finishes_badly(self, place: int, ready: bool, hashes: list[bytes], with_frame: bool) -> None:
        stream = self.stream(place, ready)
        request = pb2.StreamRequest(finish=pb2.Finish(block_hashes=hashes))
        if with_frame:
            request.frame.CopyFrom(frame(0, 1))
        self.breaks(stream, "finish with bad hashes", request)

    @rule(place=PLACES, ready=READY)
    def finishes_beside_a_frame(self, place: int, ready: bool) -> None:
        stream = self.stream(place, ready)
        self.breaks(
            stream, "finish and frame", pb2.StreamRequest(finish=pb2.Finish(block_hashes=HASHES[:1]), frame=frame(0, 1))
        )

    def breaks(self, stream: Stream, what: str, request: pb2.StreamRequest) -> None:
        """A message out of its order ends the stream; after `finish` by the error that says so, if it is read."""
        is_read = request.ByteSize() <= MOST_BESIDE_DATA
        error = "SessionClosed" if stream.state == "finished" and is_read else "InvalidRequest"
        self.exchange(stream, what, request.SerializeToString(), [], error)

    @rule(place=PLACES, ready=READY)
    def ends(self, place: int, ready: bool) -> None:
        stream = self.stream(place, ready)

        async def end() -> grpc.StatusCode:
            async with asyncio.timeout(SECONDS):
                await stream.call.done_writing()
                assert await stream.call.read() is grpc.aio.EOF
                return await stream.call.code()

        assert loop_thread().run(end()) is grpc.StatusCode.OK, stream.sent
        stream.state = "ended"

    def settles(self) -> None:
        """Waits until the server has done what it gives no reply to."""

        loop_thread().run(until(lambda: self.cached.keys() <= self.host.cached.keys()))

    @invariant()
    def every_session_is_where_its_own_messages_left_it(self) -> None:
        loop_thread().run(until(self.agrees))

    def agrees(self) -> bool:
        sessions = {session.opening.session_id: session for session in self.host.sessions}
        for stream in self.all:
            session = sessions.get(stream.name)
            if stream.state == "open" and (session is None or session.closed.is_set()):
                return False
            if stream.state == "open" and session is not None and session.reached != stream.reached:
                return False
            if stream.state == "ended" and session is not None and session.times_closed != 1:
                return False
        return True


# Not shrunk, which would wait for what never comes again and again: the assertion prints what its stream was sent.
Protocol.TestCase.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, phases=[Phase.reuse, Phase.generate], print_blob=True
)
TestProtocol = Protocol.TestCase
