"""A remote trunk as a teacher for cleangpt's distillation.

Shapes: B rows, T positions, D hidden size.
"""

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from splitlearn_cli.errors import ServiceRefused
from splitlearn_cli.waiting import PATIENCE_SECONDS, wait_for_trunk
from splitlearn_comm import (
    CHUNK_BYTES,
    SESSION_MESSAGE_BYTES,
    Access,
    AsyncGRPCComputeClient,
    ClientStream,
    CommError,
    Frame,
    SessionOpening,
)
from splitlearn_comm.access import access_to
from splitlearn_comm.loop_thread import close, loop_thread

_SESSIONS = 8


class RemoteTrunk:
    """Implements `cleangpt.distillation`'s trunk. Blocks; use it as a context manager, or close it.

    Padding is not sent. Several texts of a batch run at once, each in its own session.

    Args:
        address: `host:port`, or `host:port#token.fingerprint` as the trunk prints it.
        codec: the wire codec of rows, in both directions; a name that `splitlearn_comm` knows.
        timeout: seconds that each answer may take.
        wait: seconds to wait for a trunk that is starting.
        access: encryption and token, where the address has none; None connects in clear.

    Raises:
        CommError: nothing answers at the address.
        ServiceRefused: the service there is no trunk.
    """

    def __init__(
        self,
        address: str,
        *,
        codec: str = "none",
        timeout: float = 30.0,
        wait: float = PATIENCE_SECONDS,
        access: Access | None = None,
    ) -> None:
        address, own = access_to(address, access or Access())
        self._client = AsyncGRPCComputeClient(address, timeout=timeout, most_received=SESSION_MESSAGE_BYTES, access=own)
        self._codec = codec
        self.fingerprint = loop_thread().run(wait_for_trunk(self._client, wait)).fingerprint
        # a fingerprint ends in the dtype of hidden states
        dtype = getattr(torch, self.fingerprint.rsplit(" ", 1)[-1], None)
        if not isinstance(dtype, torch.dtype):
            self.close()
            raise ServiceRefused(f"what {address} serves, [{self.fingerprint}], names no dtype: it is no trunk")
        self._dtype = dtype

    def hidden(self, hidden_BTD: Tensor, lengths: Sequence[int]) -> Tensor:
        """The trunk's rows [B, T, D]; zeros at padding. They are sent in the fingerprint's dtype.

        Raises:
            CommError: the trunk is unreachable, or refuses. The call can be repeated.
            ServiceRefused: the answer has another shape than the request.
        """
        dtype = self._dtype
        texts = [row_TD[:length].to("cpu", dtype) for row_TD, length in zip(hidden_BTD, lengths, strict=True)]
        answers = loop_thread().run(self._all(texts))
        answered_BTD = torch.zeros(hidden_BTD.shape, dtype=dtype)
        for row_TD, answer_TD in zip(answered_BTD, answers, strict=True):
            row_TD[: answer_TD.shape[0]] = answer_TD
        return answered_BTD.to(hidden_BTD.device)

    def close(self) -> None:
        """Closes the connection. A second call does nothing."""
        close(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    async def _all(self, texts: Sequence[Tensor]) -> list[Tensor]:
        answers: list[Tensor] = [torch.empty(0)] * len(texts)
        waiting = iter(range(len(texts)))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_SESSIONS, len(texts))):
                    group.create_task(self._session(waiting, texts, answers))
        except* (CommError, ServiceRefused) as errors:
            raise _first(errors) from None
        return answers

    async def _session(self, waiting: Iterable[int], texts: Sequence[Tensor], answers: list[Tensor]) -> None:
        longest = max(1, *(text_TD.shape[0] for text_TD in texts))
        opening = SessionOpening(uuid.uuid4().hex, self.fingerprint, longest, self._codec)
        async with self._client.stream(opening) as stream:
            for index in waiting:
                answers[index] = await _answer(stream, texts[index])


async def _answer(stream: ClientStream, text_TD: Tensor) -> Tensor:
    """The trunk's rows for one text. Its first frame, at position 0, drops the session's earlier rows."""
    rows = max(1, CHUNK_BYTES // (text_TD.shape[1] * text_TD.element_size()))
    starts = range(0, text_TD.shape[0], rows)
    if not starts:
        return text_TD
    for start in starts:
        await stream.send(Frame(start, text_TD[start : start + rows]))
    found = [(await stream.receive()).frame.rows for _ in starts]
    answer_TD = torch.cat([text_TD[:0] if each is None else each for each in found])
    if answer_TD.shape != text_TD.shape:
        raise ServiceRefused(f"the trunk answered {list(text_TD.shape)} with {list(answer_TD.shape)}")
    return answer_TD


def _first(errors: BaseExceptionGroup[CommError | ServiceRefused]) -> CommError | ServiceRefused:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
