"""Frames that are filled up to one size, and sent at even times, change no answer."""

import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.backends.cpu.kernels import kernels
from splitlearn.engine import Speculation
from splitlearn_client.frame_shape import FrameShape
from splitlearn_client.speculation.draft_length import DraftLength
from splitlearn_client.speculation.speculator import Speculator
from splitlearn_client.split_session import SplitSession
from splitlearn_comm import Frame
from support.running_split import RunningClient, running_client, running_trunk
from support.tiny_models import VOCABULARY, random_model, save_sepweight, tiny_config

needs_kernels = pytest.mark.skipif(kernels() is None, reason="no C compiler at installation, or no AVX2 with FMA")

# repeats itself, so that there is something to look up
PROMPT = 4 * torch.randint(3, VOCABULARY, (12,), generator=torch.Generator().manual_seed(3)).tolist()
NEW_TOKENS = 16
KINDS: list[dict[str, Any]] = [
    {},
    {"temperature": 1, "seed": 5, "logprobs": 2},
    {"structured_outputs": {"regex": "([a-f]{2}[0-9]){1,6}"}, "temperature": 1, "seed": 11},
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_model(tiny_config("llama")).bfloat16()
    return save_sepweight(tmp_path_factory.mktemp("bf16"), model, dtype="bfloat16")


@asynccontextmanager
async def client_of(weights: Path, **settings: Any) -> AsyncIterator[RunningClient]:
    async with running_trunk(weights) as trunk, running_client(weights, trunk.address, **settings) as client:
        await client.ready()
        yield client


async def answers(client: RunningClient) -> list[Any]:
    replies = [await client.complete(prompt=PROMPT, max_tokens=NEW_TOKENS, **fields) for fields in KINDS]
    assert all(reply.status_code == 200 for reply in replies), replies[0].text
    return [reply.json()["choices"] for reply in replies]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each frame that the client sends behind the prompt, which goes in as many as the link seems to be good
    for."""
    found: list[int] = []

    def sent(position: int, rows: torch.Tensor) -> Frame:
        if position >= len(PROMPT):
            found.append(rows.shape[0])
        return Frame(position, rows)

    monkeypatch.setattr("splitlearn_client.split_session.Frame", sent)
    return found


@needs_kernels
@pytest.mark.parametrize("method", ["ngram", "ngram,draft_model"])
async def test_every_frame_behind_the_prompt_has_the_same_rows_and_answers_are_the_same(
    weights: Path, sizes: list[int], method: str
) -> None:
    async with client_of(weights) as client:
        expected = await answers(client)
    del sizes[:]

    padded: dict[str, Any] = {"speculative_method": method, "num_speculative_tokens": 4, "pad_frames": True}
    if "draft_model" in method:
        padded["speculative_model"] = weights
    async with client_of(weights, **padded, enable_prefix_caching=False) as client:
        found = await answers(client)
        drafted = client.value("spec_decode_num_draft_tokens_total")

    assert found == expected
    # an answer's last frames have less room: the session ends there
    shorter = [size for size in sizes if size != 5]
    assert sizes.count(5) > len(shorter)
    assert all(size < 5 for size in shorter)
    assert len(shorter) <= 4 * len(KINDS)
    # padding counts as no guess
    assert drafted < 4 * len(sizes)


@needs_kernels
async def test_frames_begin_at_even_times(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[float] = []
    choose = SplitSession.choose

    async def noted(self: SplitSession, *args: Any) -> Any:
        began.append(time.monotonic())
        return await choose(self, *args)

    monkeypatch.setattr(SplitSession, "choose", noted)
    async with client_of(weights, frame_interval=0.05) as client:
        reply = await client.complete(prompt=PROMPT, max_tokens=6)

    assert reply.status_code == 200
    assert len(began) == 5
    # a busy machine is late, and never early
    assert all(later - earlier > 0.01 for earlier, later in itertools.pairwise(began))
    assert began[-1] - began[0] > 0.19


async def test_a_frame_waits_for_its_time_when_its_guesses_are_made(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    pause, guesses, choose = FrameShape.pause, Speculator.guesses, SplitSession.choose

    def paused(self: FrameShape, since_first: float) -> float:
        happened.append("pause")
        return pause(self, since_first)

    async def guessed(self: Speculator, *args: Any) -> Any:
        happened.append("guess")
        return await guesses(self, *args)

    async def chosen(self: SplitSession, *args: Any) -> Any:
        happened.append("frame")
        return await choose(self, *args)

    monkeypatch.setattr(FrameShape, "pause", paused)
    monkeypatch.setattr(Speculator, "guesses", guessed)
    monkeypatch.setattr(SplitSession, "choose", chosen)
    method = {"speculative_method": "ngram", "speculative_rounding": True}
    async with client_of(weights, frame_interval=0.001, **method) as client:
        reply = await client.complete(prompt=PROMPT, max_tokens=4)

    assert reply.status_code == 200
    # nobody waits for the first one
    assert happened[:5] == ["guess", "frame", "guess", "pause", "frame"]


async def test_a_guess_is_weighed_by_the_time_that_its_frame_waits(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    seconds = DraftLength.seconds

    def noted(self: DraftLength, n_guesses: int) -> float:
        waited.append(seconds(self, n_guesses))
        return waited[-1]

    monkeypatch.setattr(DraftLength, "seconds", noted)
    method = {"speculative_method": "ngram", "speculative_rounding": True}
    async with client_of(weights, frame_interval=0.02, **method) as client:
        reply = await client.complete(prompt=PROMPT, max_tokens=6)

    assert reply.status_code == 200
    assert waited
    assert all(each / 0.02 == pytest.approx(round(each / 0.02)) for each in waited)


@pytest.mark.parametrize("allowed", [Speculation.NONE, Speculation.ROUNDED])
async def test_where_nothing_is_guessed_no_frame_is_padded(
    weights: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], allowed: Speculation
) -> None:
    monkeypatch.setattr(SplitSession, "speculation", allowed)
    async with client_of(weights, speculative_method="ngram", pad_frames=True) as client:
        reply = await client.complete(prompt=PROMPT, max_tokens=6, ignore_eos=True)

    assert reply.status_code == 200, reply.text
    assert sizes == [1, 1, 1, 1, 1]
