"""The traces that `splitlearn privacy-report` takes answers to leave are those that a client leaves."""

import asyncio
from itertools import islice
from pathlib import Path

import pytest
import torch

from cleangpt.tokenizers import create_tokenizer
from splitlearn_client.speculation.draft_length import DraftLength
from splitlearn_comm import Frame
from splitlearn_privacy.texts import Document, documents
from splitlearn_privacy.traffic import Step, steps
from support.running_split import Split, running_split

DEMO = Path(__file__).parents[2] / "deploy/demo_model"
MOST = 7
N_ANSWERS = 8


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Position and number of rows of each frame that the client sends."""
    found: list[tuple[int, int]] = []

    def sent(position: int, rows: torch.Tensor) -> Frame:
        found.append((position, rows.shape[0]))
        return Frame(position, rows)

    monkeypatch.setattr("splitlearn_client.split_session.Frame", sent)
    return found


@pytest.fixture(scope="module")
def asked() -> list[Document]:
    """Questions with something to look up for their answers, where an end token would be among the guesses."""
    tokenizer = create_tokenizer("hugging_face", folder=DEMO)
    ends = {tokenizer.fast.eos_token_id}
    found = (each for each in documents("stdlib-questions", tokenizer) if _n_guesses(each, ends))
    return list(islice((each for each in found if _n_guesses(each, set()) > _n_guesses(each, ends)), N_ANSWERS))


def _n_guesses(dialogue: Document, ends: set[int]) -> int:
    return sum(step.n_guesses for step in asyncio.run(steps(dialogue, MOST, ends)))


async def answered(split: Split, prompt: tuple[int, ...]) -> Document:
    """The question with the answer of the client, up to its end token."""
    reply = await split.client.complete(prompt=list(prompt), max_tokens=300, return_token_ids=True)
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    ids = choice["token_ids"]
    return Document((*prompt, *ids), (False,) * len(prompt) + (True,) * len(ids))


def ends_of(split: Split) -> set[int]:
    end = split.client.service.tokenizer.end_token
    assert end is not None
    return {end}


def placed(found: list[Step], n_asked: int, n_rows: int | None = None) -> list[tuple[int, int]]:
    """Position and number of rows of each of these frames; `n_rows` of those that are filled up."""
    placed, position = [], n_asked
    for step in found:
        placed.append((position, n_rows or 1 + step.n_guesses))
        position += 1 + step.n_right
    return placed


@pytest.mark.parametrize("padded", [False, True])
async def test_a_trace_with_guesses_has_the_frames_and_rows_of_the_wire(
    asked: list[Document], frames: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, padded: bool
) -> None:
    method = {"speculative_method": "ngram", "speculative_rounding": True, "pad_frames": padded}
    async with running_split(DEMO, **method, enable_prefix_caching=False) as split:
        # nothing is guessed before a trip was timed
        await split.client.complete(prompt=[2], max_tokens=3)
        monkeypatch.setattr(DraftLength, "takes", _takes_all)
        n_guesses = 0
        for each in asked:
            frames.clear()
            dialogue = await answered(split, each.ids[: each.n_asked])
            expected = await steps(dialogue, MOST, ends_of(split))

            assert frames[0] == (0, each.n_asked)
            assert frames[1:] == placed(expected, each.n_asked, 1 + MOST if padded else None)
            n_guesses += sum(step.n_guesses for step in expected)
    assert n_guesses >= N_ANSWERS


async def test_a_trace_without_guesses_has_the_frames_of_the_wire(
    asked: list[Document], frames: list[tuple[int, int]]
) -> None:
    async with running_split(DEMO, enable_prefix_caching=False) as split:
        dialogue = await answered(split, asked[0].ids[: asked[0].n_asked])

    found = await steps(dialogue, MOST, ends_of(split))
    assert len(frames) - 1 == sum(step.n_right + 1 for step in found) == len(dialogue.first_answer) - 1


def _takes_all(length: DraftLength, _probability: float) -> bool:
    length.length += 1
    return True
