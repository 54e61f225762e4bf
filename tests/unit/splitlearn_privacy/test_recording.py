import json
import shutil
from pathlib import Path

import pytest

from splitlearn_privacy.recording import Recorded, Setup, Writing, record
from splitlearn_privacy.texts import Document
from splitlearn_privacy.traffic import Frames
from support.tiny_models import VOCABULARY

N_TOKENS, MOST = 10, 4
WRITING = Writing(3, N_TOKENS, MOST)
# the tiny model repeats itself, so that there is something to guess
PROMPTS = [4 * (5, 6, 7, number) for number in (8, 9, 10)]


def dialogues(prompts: list[tuple[int, ...]]) -> list[Document]:
    return [Document((*ids, 3), (*(False for _ in ids), True)) for ids in prompts]


async def recorded(
    weights: Path, setup: Setup, writing: Writing = WRITING, prompts: list[tuple[int, ...]] = PROMPTS
) -> tuple[list[Recorded], list[Recorded]]:
    return (await record(weights, "1-4", dialogues(prompts), writing, [setup], lambda _: None))[setup]


async def test_each_answer_is_written_twice_and_has_the_same_sizes(tiny_weights: Path) -> None:
    earlier, later = await recorded(tiny_weights, Setup(Frames.PLAIN))

    assert len(earlier) == len(later) == len(PROMPTS)
    for one, other in zip(earlier, later, strict=True):
        # the prompt gives the first token
        assert len(one.sizes) == len(one.times) == N_TOKENS
        assert one.sizes == other.sizes
        assert list(one.times) == sorted(one.times)
        # and is the longest message, also the second time
        assert other.sizes[0] > max(other.sizes[1:])


async def test_recordings_are_in_the_order_of_the_prompts_whatever_they_were_written_in(tiny_weights: Path) -> None:
    # another length is another size
    prompts = [(5,) * n for n in (12, 11, 10, 9, 8)]
    earlier, later = await recorded(tiny_weights, Setup(Frames.PLAIN), Writing(5, 2, MOST, seed=1), prompts)

    assert [each.sizes[0] for each in earlier] == [each.sizes[0] for each in later]
    assert len({each.sizes[0] for each in earlier}) == len(prompts)


async def test_padded_frames_have_one_size_up_to_the_last(tiny_weights: Path) -> None:
    earlier, later = await recorded(tiny_weights, Setup(Frames.PADDED))

    assert len({size for each in (*earlier, *later) for size in each.sizes[1:]}) == 1


async def test_guesses_are_sent(tiny_weights: Path) -> None:
    earlier, later = await recorded(tiny_weights, Setup(Frames.GUESSES))

    assert len({size for each in (*earlier, *later) for size in each.sizes[1:]}) > 1


async def test_frames_come_at_the_interval(tiny_weights: Path) -> None:
    earlier, _ = await recorded(tiny_weights, Setup(Frames.PLAIN, 0.1), Writing(2, 4, MOST))

    # a busy machine is late, and never early
    assert all(each.times[-1] - each.times[1] > 0.15 for each in earlier)


async def test_no_rows_are_cached_for_the_second_time(tiny_weights: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(tiny_weights, tmp_path / "weights"))
    # the rows of an answer that ends would be cached
    (weights / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(VOCABULARY))}))
    prompts = [(*64 * (5,), number) for number in (6, 7)]

    earlier, later = await recorded(weights, Setup(Frames.PLAIN), prompts=prompts)

    assert [each.sizes for each in earlier] == [each.sizes for each in later]
    assert all(len(each.sizes) == 1 for each in earlier)


@pytest.mark.parametrize("prompts", [[], PROMPTS[:1]])
async def test_less_than_two_conversations_give_nothing(tiny_weights: Path, prompts: list[tuple[int, ...]]) -> None:
    assert await record(tiny_weights, "1-4", dialogues(prompts), WRITING, [Setup(Frames.PLAIN)], _no_step) == {}


def _no_step(_: str) -> None:
    raise AssertionError("nothing is to be recorded")
