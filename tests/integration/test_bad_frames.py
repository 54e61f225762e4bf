"""Frames that no client service would send, on a raw stream to a real trunk.

Shapes: T rows, D hidden size.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from splitlearn_comm import (
    AsyncGRPCComputeClient,
    ClientStream,
    CommError,
    FingerprintMismatch,
    Frame,
    InvalidTensor,
    PositionNotReached,
    SessionOpening,
    SessionTooLong,
)
from support.running_split import RunningTrunk, running_trunk, until
from support.tiny_models import CONTEXT

D = 64


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
async def trunk(tiny_weights: Path) -> AsyncIterator[RunningTrunk]:
    async with running_trunk(tiny_weights) as running:
        yield running


@pytest.fixture
async def raw(trunk: RunningTrunk) -> AsyncIterator[AsyncGRPCComputeClient]:
    async with AsyncGRPCComputeClient(trunk.address) as client:
        yield client


def opened(raw: AsyncGRPCComputeClient, trunk: RunningTrunk, max_length: int = 100) -> ClientStream:
    return raw.stream(SessionOpening("raw", trunk.fingerprint, max_length))


async def answered(stream: ClientStream, position: int, rows_TD: torch.Tensor) -> torch.Tensor:
    reply = await stream.step(Frame(position, rows_TD))
    assert reply.frame.rows is not None
    return reply.frame.rows


BAD_FRAMES: dict[str, tuple[int, torch.Tensor, type[CommError], str]] = {
    "wrong dtype": (4, rows(1).double(), InvalidTensor, "must be float32.*found float64"),
    "wrong width": (4, rows(1)[:, :10], InvalidTensor, r"shape \[T, 64\], found \[1, 10\]"),
    "NaN": (4, torch.full((2, D), torch.nan), InvalidTensor, "2 of 2 rows hold NaN or infinity"),
    "infinity": (4, torch.full((1, D), torch.inf), InvalidTensor, "1 of 1 rows hold NaN or infinity"),
    "position never reached": (5, rows(1), PositionNotReached, "position 5 was never reached.*holds 4 rows"),
    "longer than the session": (4, rows(97), SessionTooLong, "make 101, but the limit is 100"),
}


@pytest.mark.parametrize("kind", list(BAD_FRAMES))
async def test_a_bad_frame_is_refused_in_its_place_and_the_session_goes_on(
    raw: AsyncGRPCComputeClient, trunk: RunningTrunk, kind: str
) -> None:
    position, bad, error, words = BAD_FRAMES[kind]
    hidden_TD = rows(6, seed=1)
    async with opened(raw, trunk) as untouched:
        expected_TD = await answered(untouched, 0, hidden_TD)
    async with opened(raw, trunk) as stream:
        await answered(stream, 0, hidden_TD[:4])
        with pytest.raises(error, match=words):
            await stream.step(Frame(position, bad))
        output_TD = await answered(stream, 4, hidden_TD[4:])
        assert not stream.ended
    torch.testing.assert_close(output_TD, expected_TD[4:], atol=1e-5, rtol=0)
    assert trunk.value("refusals_total", error=error.__name__) == 1
    await until(lambda: trunk.open_sessions == 0)


async def test_a_bad_first_frame_leaves_a_session_that_can_begin_again(
    raw: AsyncGRPCComputeClient, trunk: RunningTrunk
) -> None:
    async with opened(raw, trunk) as stream:
        with pytest.raises(PositionNotReached):
            await stream.step(Frame(3, rows(1)))
        assert (await answered(stream, 0, rows(2))).shape == (2, D)


async def test_a_session_cannot_be_opened_longer_than_the_context(
    raw: AsyncGRPCComputeClient, trunk: RunningTrunk
) -> None:
    async with opened(raw, trunk, max_length=10 * CONTEXT) as stream:
        with pytest.raises(SessionTooLong, match=f"limit is {CONTEXT}"):
            await stream.step(Frame(0, rows(CONTEXT + 1)))


async def test_an_opening_with_another_fingerprint_is_refused_by_both_names(
    raw: AsyncGRPCComputeClient, trunk: RunningTrunk
) -> None:
    stream = raw.stream(SessionOpening("raw", "something else", 10))
    with pytest.raises(FingerprintMismatch) as refused:
        await stream.step(Frame(0, rows(1)))
    assert trunk.fingerprint in str(refused.value)
    assert "something else" in str(refused.value)
    assert trunk.value("sessions_total") == 0


async def test_bad_frames_of_one_session_do_not_disturb_another(
    raw: AsyncGRPCComputeClient, trunk: RunningTrunk
) -> None:
    hidden_TD = rows(20, seed=2)
    async with opened(raw, trunk) as stream:
        expected_TD = await answered(stream, 0, hidden_TD)
    async with opened(raw, trunk) as good, opened(raw, trunk) as bad:
        await answered(bad, 0, rows(4))
        outputs = []
        for i, (position, bad_TD, error, _) in enumerate(BAD_FRAMES.values()):
            outputs.append(await answered(good, i, hidden_TD[i : i + 1]))
            with pytest.raises(error):
                await bad.step(Frame(position, bad_TD))
    torch.testing.assert_close(torch.cat(outputs), expected_TD[: len(outputs)], atol=1e-5, rtol=0)
