from collections import Counter
from dataclasses import replace

import torch

from cleangpt.data.conversations import ConversationRows, Row, Turn, as_row, padded

# question q in phrasing p: a prompt of one or two ids, an answer that names the question
_QUESTIONS = tuple(tuple(Turn((1,) * (1 + p), (100 + q, 2)) for p in range(2)) for q in range(50))
_ROWS = ConversationRows(_QUESTIONS, batch_tokens=40, context=16, seed=3)


def _answers(rows: ConversationRows, epoch: int) -> list[int]:
    return [token for batch in rows.rows(epoch) for row in batch for token in row.ids if token >= 100]


def test_only_answers_are_learned() -> None:
    row = as_row([Turn((5, 6), (7, 8)), Turn((9,), (10,))])
    assert row.ids == (5, 6, 7, 8, 9, 10)
    assert row.learned == (False, False, True, True, False, True)


def test_an_epoch_asks_every_question_once() -> None:
    assert Counter(_answers(_ROWS, 0)) == Counter(range(100, 150))


def test_the_next_epoch_takes_the_next_phrasing() -> None:
    prompts = [sum(token == 1 for batch in _ROWS.rows(e) for row in batch for token in row.ids) for e in range(2)]
    assert prompts == [75, 75]
    alone = replace(_ROWS, questions=_QUESTIONS[:1])
    assert [alone.rows(epoch)[0][0].ids.count(1) for epoch in range(3)] == [1, 2, 1]


def test_batches_are_the_same_whenever_they_are_asked_for_and_differ_between_epochs_and_seeds() -> None:
    assert _ROWS.rows(4) == _ROWS.rows(4)
    assert _ROWS.rows(4) != _ROWS.rows(5)
    assert _ROWS.rows(4) != replace(_ROWS, seed=4).rows(4)


def test_batches_keep_to_their_tokens_padding_included() -> None:
    sizes = [max(len(row.ids) for row in batch) * len(batch) for batch in _ROWS.rows(0)]
    assert max(sizes) <= 40


def test_rows_keep_to_the_context_and_some_hold_several_turns() -> None:
    rows = [row for batch in _ROWS.rows(0) for row in batch]
    assert max(len(row.ids) for row in rows) <= 16
    assert any(sum(token >= 100 for token in row.ids) > 1 for row in rows)


def test_a_row_longer_than_a_batch_still_gets_one() -> None:
    long = ConversationRows(((Turn((1,) * 60, (2,)),),), batch_tokens=40, context=16, seed=0)
    assert [len(batch) for batch in long.rows(0)] == [1]


def test_shorter_rows_are_padded_on_the_right_with_ids_that_nobody_learns() -> None:
    batch = padded([Row((4, 5), (False, True)), Row((6, 7, 8), (False, True, True))])
    assert batch.ids_BT.tolist() == [[4, 5, 0], [6, 7, 8]]
    assert batch.learned_BT is not None
    assert batch.learned_BT.tolist() == [[False, True, False], [False, True, True]]
    assert (batch.ids_BT.dtype, batch.learned_BT.dtype) == (torch.int64, torch.bool)


def test_a_batch_is_its_rows_padded_in_the_order_of_the_epoch() -> None:
    rows, batches = _ROWS.rows(2), _ROWS.batches(2)
    assert len(batches) == len(rows)
    for index in (0, len(rows) - 1, -1):
        assert torch.equal(batches[index].ids_BT, padded(rows[index]).ids_BT)
    assert torch.equal(batches[3:][0].ids_BT, padded(rows[3]).ids_BT)
