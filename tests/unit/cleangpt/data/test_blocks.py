from collections import Counter
from dataclasses import replace
from itertools import chain, pairwise

import pytest
import torch
from torch import Tensor

from cleangpt.data.blocks import BlockSettings, TokenBlocks, joined_ids
from cleangpt.errors import TextError, TextTooShortError
from cleangpt.tokenizers import BaseTokenizer, create_tokenizer

_SETTINGS = BlockSettings(block_size=8, batch_size=3, seed=5)
_BLOCKS = TokenBlocks(torch.arange(100, dtype=torch.int32), _SETTINGS)


@pytest.fixture(scope="module")
def tokenizer() -> BaseTokenizer:
    return create_tokenizer("character", texts=["abcdefgh"])


def _rows(blocks: TokenBlocks, epoch: int) -> list[list[int]]:
    return [row for batch in blocks.batches(epoch) for row in batch.ids_BT.tolist()]


def test_texts_follow_each_other_with_the_end_token_between(tokenizer: BaseTokenizer) -> None:
    assert joined_ids(["ab", "c"], tokenizer).tolist() == [3, 4, 1, 5, 1]


def test_more_texts_than_are_encoded_at_once_stay_in_order(tokenizer: BaseTokenizer) -> None:
    texts = ["abcdefgh"[index % 8] for index in range(600)]
    assert joined_ids(texts, tokenizer).tolist() == list(chain.from_iterable((3 + i % 8, 1) for i in range(600)))


def test_blocks_are_runs_of_the_text_that_share_a_token_with_their_neighbours() -> None:
    for epoch in range(5):
        rows = sorted(_rows(_BLOCKS, epoch))
        assert all(row == list(range(row[0], row[0] + 8)) for row in rows)
        assert all(before[-1] >= after[0] for before, after in pairwise(rows))
        # only the first and the last have more in common with theirs
        assert all(before[-1] == after[0] for before, after in pairwise(rows[1:-1]))


@pytest.mark.parametrize("block", [2, 3, 8, 256])
@pytest.mark.parametrize("more", [0, 1, 2, 254, 255, 256, 510, 511])
def test_every_token_but_the_first_is_predicted_in_every_epoch(block: int, more: int) -> None:
    length = block + more
    settings = BlockSettings(block, 4, seed=length)
    for shuffled in (True, False):
        blocks = TokenBlocks(torch.arange(length, dtype=torch.int32), settings, shuffled)
        for epoch in range(4):
            predicted = Counter(id_ for row in _rows(blocks, epoch) for id_ in row[1:])
            assert set(predicted) == set(range(1, length))
            assert predicted.total() < length + 2 * block
            if not shuffled:
                assert set(predicted.values()) == {1}


def test_a_small_text_is_learned_whole() -> None:
    small = TokenBlocks(torch.arange(766, dtype=torch.int32), BlockSettings(256, 16))
    for epoch in range(3):
        assert {id_ for row in _rows(small, epoch) for id_ in row} == set(range(766))


def test_batches_have_the_size_asked_for_and_ids_that_embeddings_take() -> None:
    batches = _BLOCKS.batches(1)
    shapes = [tuple(batch.ids_BT.shape) for batch in batches]
    assert shapes[:-1] == [(3, 8)] * (len(shapes) - 1)
    assert shapes[-1] in [(1, 8), (2, 8), (3, 8)]
    assert batches[0].ids_BT.dtype == torch.int64
    assert batches[0].learned_BT is None


def test_a_batch_depends_on_seed_epoch_and_index_alone() -> None:
    twin = TokenBlocks(torch.arange(100, dtype=torch.int32), BlockSettings(8, 3, 5))
    twin.batches(7)[0]
    assert torch.equal(_BLOCKS.batches(4)[2].ids_BT, twin.batches(4)[2].ids_BT)
    assert torch.equal(_BLOCKS.batches(4)[1:][1].ids_BT, twin.batches(4)[2].ids_BT)
    assert _rows(_BLOCKS, 4) != _rows(_BLOCKS, 5)
    assert _rows(_BLOCKS, 4) != _rows(TokenBlocks(_BLOCKS.ids_N, replace(_SETTINGS, seed=6)), 4)


def test_over_the_epochs_the_text_is_cut_everywhere() -> None:
    begins = {row[0] % 7 for epoch in range(60) for row in _rows(_BLOCKS, epoch)}
    assert begins == set(range(7))


def test_unshuffled_every_epoch_reads_the_text_in_order_and_ends_with_a_shorter_block() -> None:
    plain = TokenBlocks(_BLOCKS.ids_N, _SETTINGS, shuffled=False)
    assert _rows(plain, 0) == [list(range(7 * i, 7 * i + 8)) for i in range(14)] + [[98, 99]]
    assert _rows(plain, 0) == _rows(plain, 1)
    assert [len(batch.ids_BT) for batch in plain.batches(0)] == [3, 3, 3, 3, 2, 1]


@pytest.mark.parametrize("shuffled", [True, False])
def test_even_a_text_of_one_block_has_a_batch(shuffled: bool) -> None:
    short = TokenBlocks(torch.arange(8, dtype=torch.int32), _SETTINGS, shuffled)
    assert _rows(short, 0) == [list(range(8))]


def test_a_text_shorter_than_a_block_is_refused_with_both_lengths(tokenizer: BaseTokenizer) -> None:
    with pytest.raises(TextTooShortError, match="has 7 tokens and a block takes 8"):
        TokenBlocks.from_texts(["abc", "de"], tokenizer, _SETTINGS)
    with pytest.raises(TextTooShortError, match="has 0 tokens"):
        TokenBlocks.from_texts([], tokenizer, _SETTINGS)


@pytest.mark.parametrize(("fraction", "held_out"), [(0.25, 25), (0.01, 8)])
def test_the_end_of_the_text_is_held_out_to_validate_on(fraction: float, held_out: int) -> None:
    training, validation = _BLOCKS.split(fraction)
    assert validation.ids_N.tolist() == list(range(100 - held_out, 100))
    assert training.ids_N.tolist() == list(range(100 - held_out))
    assert (training.shuffled, validation.shuffled) == (True, False)


def test_a_text_too_short_to_hold_a_block_out_is_refused_with_all_lengths() -> None:
    with pytest.raises(TextTooShortError, match=r"has 15 tokens and a block takes 8: 8 .* leave 7"):
        TokenBlocks(torch.arange(15, dtype=torch.int32), _SETTINGS).split(0.1)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(TextError, match="between 0 and 1"):
        _BLOCKS.split(fraction)


@pytest.mark.parametrize(("block_size", "batch_size"), [(1, 4), (8, 0)])
def test_sizes_that_leave_nothing_to_learn_are_refused(block_size: int, batch_size: int) -> None:
    with pytest.raises(TextError, match="at least 2 and 1"):
        BlockSettings(block_size, batch_size)


@pytest.mark.parametrize(
    ("ids_N", "settings", "shuffled", "name"),
    [
        (_BLOCKS.ids_N + 1, _SETTINGS, True, "text"),
        (_BLOCKS.ids_N, replace(_SETTINGS, seed=6), True, "seed of the order"),
        (_BLOCKS.ids_N, replace(_SETTINGS, batch_size=4), True, "batch_size"),
        (_BLOCKS.ids_N, replace(_SETTINGS, block_size=9), True, "ids per block"),
        (_BLOCKS.ids_N, _SETTINGS, False, "shuffled"),
    ],
)
def test_text_and_settings_are_described_apart(
    ids_N: Tensor, settings: BlockSettings, shuffled: bool, name: str
) -> None:
    assert TokenBlocks(_BLOCKS.ids_N.clone(), _SETTINGS).described == _BLOCKS.described
    found = TokenBlocks(ids_N, settings, shuffled).described
    assert {key for key, value in _BLOCKS.described.items() if found[key] != value} == {name}
