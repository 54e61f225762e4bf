"""The stand-in must follow the rule of positions, or tests that lean on it prove nothing."""

import pytest
import torch

from splitlearn_comm.core import SessionOpening
from splitlearn_comm.errors import FingerprintMismatch, PositionNotReached, SessionTooLong
from splitlearn_comm.frames import Frame
from splitlearn_comm.testing import EchoSession, EchoSessionHost


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values).unsqueeze(1)


async def opened(max_length: int = 8) -> EchoSession:
    return await EchoSessionHost(factor=3.0).open(SessionOpening("one", "echo", max_length))


async def held(session: EchoSession, *frames: Frame) -> list[float]:
    for frame in frames:
        await session.step(frame)
    assert session.rows_TD is not None
    return session.rows_TD.flatten().tolist()


async def test_rows_come_back_times_the_factor_at_their_position() -> None:
    session = await opened()
    await session.step(Frame(0, column(1)))

    reply = await session.step(Frame(1, column(2, 3)))

    assert reply.frame.position == 1
    assert reply.frame.rows is not None
    assert reply.frame.rows.flatten().tolist() == [6, 9]


async def test_a_resend_changes_nothing() -> None:
    frames = [Frame(0, column(1, 2)), Frame(2, column(3))]

    assert await held(await opened(), *frames, frames[1]) == [1, 2, 3]


async def test_a_rewind_drops_what_lay_behind_it() -> None:
    assert await held(await opened(), Frame(0, column(1, 2, 3)), Frame(1, column(9))) == [1, 9]


async def test_a_frame_without_rows_truncates_and_answers_without_rows() -> None:
    session = await opened()
    await session.step(Frame(0, column(1, 2, 3)))

    reply = await session.step(Frame(2, None))

    assert (reply.frame.position, reply.frame.rows) == (2, None)
    assert session.reached == 2


@pytest.mark.parametrize(
    ("frame", "error"), [(Frame(4, None), PositionNotReached), (Frame(3, column(1)), SessionTooLong)]
)
async def test_a_refused_frame_leaves_the_rows_as_they_were(frame: Frame, error: type[Exception]) -> None:
    session = await opened(max_length=3)
    await session.step(Frame(0, column(1, 2, 3)))

    with pytest.raises(error):
        await session.step(frame)

    assert await held(session) == [1, 2, 3]


async def test_another_fingerprint_is_refused() -> None:
    with pytest.raises(FingerprintMismatch, match="holds 'mine', the client expects 'theirs'"):
        await EchoSessionHost(fingerprint="mine").open(SessionOpening("one", "theirs", 1))
