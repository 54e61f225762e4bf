import asyncio
import threading
from collections.abc import Sequence

import pytest

from splitlearn_client.prompt_spelling import PromptSpelling
from splitlearn_client.sampling import Choice
from splitlearn_client.text.vocabulary import Vocabulary
from support.tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
IDS = TOKENIZER.encode("the quick brown fox, grüße 😀 the lazy dog " * 9)


class Watched(Vocabulary):
    """Knows the threads that it decoded on."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        super().__init__(TOKENIZER)

    def decode(self, ids: Sequence[int]) -> str:
        self.threads.add(threading.current_thread().name)
        return super().decode(ids)


def scores(ids: Sequence[int], n_alternatives: int = 0) -> list[Choice]:
    likely = tuple((token, -float(token)) for token in range(n_alternatives))
    return [Choice(token, -0.5, likely, 2) for token in ids[1:]]


@pytest.mark.parametrize("n_alternatives", [None, 0, 5, 40])
async def test_a_prompt_has_its_text_and_its_tokens_log_probabilities(n_alternatives: int | None) -> None:
    scored = None if n_alternatives is None else scores(IDS, n_alternatives)
    delta = await PromptSpelling(Vocabulary(TOKENIZER)).delta(IDS, scored)
    assert (delta.text, delta.n_tokens) == (TOKENIZER.decode(IDS), 0)
    if n_alternatives is None:
        assert delta.logprobs == ()
        return
    assert [entry.token for entry in delta.logprobs] == IDS
    assert [entry.logprob for entry in delta.logprobs] == [None] + [-0.5] * (len(IDS) - 1)
    assert {len(entry.alternatives) for entry in delta.logprobs[1:]} == {n_alternatives}
    assert "".join(entry.text for entry in delta.logprobs) == delta.text


async def test_the_event_loop_does_nothing_of_it_and_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    vocabulary = Watched()
    spelling = PromptSpelling(vocabulary)
    vocabulary.threads.clear()
    long = asyncio.create_task(spelling.delta(IDS * 20, scores(IDS * 20)))
    await asyncio.sleep(0)
    await spelling.delta(IDS[:40], scores(IDS[:40]))
    assert not long.done()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    assert threading.current_thread().name not in vocabulary.threads
    # its turn is free again
    assert (await spelling.delta(IDS[:40], scores(IDS[:40]))).text == TOKENIZER.decode(IDS[:40])
