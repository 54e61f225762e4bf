import json

import numpy as np
import pytest

from cleangpt.analysis.usage import TokenUsage, as_json, as_table, count_usage
from cleangpt.errors import EmptyTextError
from cleangpt.tokenizers import BaseTokenizer, create_tokenizer


@pytest.fixture(scope="module")
def letters() -> BaseTokenizer:
    return create_tokenizer("character", texts=["abcdé "])


@pytest.fixture(scope="module")
def usage(letters: BaseTokenizer) -> TokenUsage:
    # ids: pad 0, end 1, unk 2, space 3, a 4, b 5, c 6, d 7, é 8
    return count_usage(letters, ["aaaa bb", "c é"])


def test_uses_words_characters_and_bytes_are_counted(usage: TokenUsage) -> None:
    assert usage.counts_V.tolist() == [0, 0, 0, 2, 4, 2, 1, 0, 1]
    assert (usage.samples, usage.tokens, usage.words, usage.characters, usage.utf8_bytes) == (2, 10, 4, 10, 11)
    assert usage.fertility == 2.5
    assert usage.compression == 1.1
    assert usage.used == 5
    assert usage.unused_ids.tolist() == [0, 1, 2, 7]


def test_the_coverage_curve_rises_from_the_most_frequent_token_to_one(usage: TokenUsage) -> None:
    assert usage.frequent_ids().tolist() == [4, 3, 5, 6, 8]
    assert usage.coverage_curve().tolist() == pytest.approx([0.4, 0.6, 0.8, 0.9, 1.0])


@pytest.mark.parametrize(("share", "tokens"), [(0.1, 1), (0.4, 1), (0.41, 2), (0.6, 2), (0.9, 4), (0.95, 5), (1.0, 5)])
def test_the_fewest_tokens_that_cover_a_share(usage: TokenUsage, share: float, tokens: int) -> None:
    assert usage.tokens_to_cover(share) == tokens


def test_a_bpe_of_more_entries_needs_fewer_tokens_per_word(answers: list[str]) -> None:
    small, large = (create_tokenizer("bpe", texts=answers, vocab_size=size) for size in (300, 1000))
    few, many = count_usage(small, answers), count_usage(large, answers)
    assert few.fertility > many.fertility > 1
    assert few.compression < many.compression
    assert np.all(np.diff(many.coverage_curve()) > 0)


@pytest.mark.parametrize("texts", [[], [" \n"]])
def test_texts_without_a_word_are_refused(letters: BaseTokenizer, texts: list[str]) -> None:
    with pytest.raises(EmptyTextError, match="no word"):
        count_usage(letters, texts)


def test_the_numbers_survive_json(usage: TokenUsage, letters: BaseTokenizer) -> None:
    found = json.loads(json.dumps(as_json(usage, letters, most=2)))
    assert found["most_frequent"] == [{"id": 4, "token": "a", "uses": 4}, {"id": 3, "token": " ", "uses": 2}]
    assert found["coverage"] == {"0.9": 4, "0.95": 5, "0.99": 5}
    assert (found["vocabulary"], found["unused"], found["unused_ids"]) == (9, 4, [0, 1, 2, 7])
    assert (found["fertility"], found["bytes_per_token"]) == (2.5, 1.1)


def test_the_table_shows_white_space_and_shares(usage: TokenUsage, letters: BaseTokenizer) -> None:
    lines = as_table(usage, letters, most=2).splitlines()
    assert lines[3].split() == ["unused", "4", "(44.4", "%)"]
    assert lines[-2].split() == ["4", "'a'", "4", "40.00", "%"]
    assert lines[-1].split() == ["3", "'", "'", "2", "20.00", "%"]
