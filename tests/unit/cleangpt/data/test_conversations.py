from collections import Counter
from dataclasses import replace

import torch

from cleangpt.data.conversations import ConversationRows, Row, as_row, conversation_rows, padded, pieces
from cleangpt.data.messages import Chat, Conversations, Message
from cleangpt.data.turns import Turn
from cleangpt.tokenizers import create_tokenizer

# question q in phrasing p: a prompt of one or two ids, an answer that names the question
_QUESTIONS = tuple(tuple((Turn((1,) * (1 + p), (100 + q, 2)),) for p in range(2)) for q in range(50))
_ROWS = ConversationRows(_QUESTIONS, batch_tokens=40, context=16, seed=3, per_row=(1, 1, 1, 2, 4))


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
    alone = replace(_ROWS, dialogues=_QUESTIONS[:1])
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
    long = ConversationRows((((Turn((1,) * 60, (2,)),),),), batch_tokens=40, context=100, seed=0)
    assert [len(batch) for batch in long.rows(0)] == [1]


def test_conversations_stay_apart_unless_several_may_share_a_row() -> None:
    rows = [row for batch in replace(_ROWS, per_row=(1,)).rows(0) for row in batch]
    assert len(rows) == 50
    # but the turns of one conversation are together
    chat = ConversationRows((((Turn((1, 1), (7,)), Turn((1,), (8, 8))),),), batch_tokens=40, context=16, seed=0)
    assert chat.rows(3) == [[Row((1, 1, 7, 1, 8, 8), (False, False, True, False, True, True))]]


def test_a_conversation_longer_than_the_context_is_cut_and_every_learned_id_is_in_one_piece() -> None:
    row = as_row([Turn((1,) * 9, (20, 21, 22)), Turn((1,) * 3, (23, 24))])
    found = list(pieces(row, 5))
    assert [piece.ids for piece in found] == [(1, 20, 21, 22, 1), (1, 1, 1, 23, 24)]
    assert [piece.learned for piece in found] == [(False, True, True, True, False), (False, False, False, True, True)]
    # an id that is learned is never first, where nothing predicts it
    for context in range(2, 20):
        cut = list(pieces(row, context))
        assert max(len(piece.ids) for piece in cut) <= context
        learned = [each for piece in cut for each, is_ in zip(piece.ids, piece.learned, strict=True) if is_]
        assert learned == [20, 21, 22, 23, 24]
        assert not any(piece.learned[0] for piece in cut)
    assert list(pieces(row, len(row.ids))) == [row]


def test_rows_keep_to_the_context_where_conversations_are_longer() -> None:
    rows = [row for batch in replace(_ROWS, context=3).rows(0) for row in batch]
    assert max(len(row.ids) for row in rows) == 3
    learned = [each for row in rows for each, is_ in zip(row.ids, row.learned, strict=True) if is_]
    assert Counter(each for each in learned if each >= 100) == Counter(range(100, 150))


def test_what_is_not_shuffled_is_the_same_in_every_epoch() -> None:
    still = replace(_ROWS, shuffled=False)
    assert still.rows(0) == still.rows(3) == _ROWS.rows(0)
    assert still.described != _ROWS.described


def test_only_what_the_assistant_says_is_learned() -> None:
    turns = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), ("user", "And?"), ("assistant", "Bye")]
    texts = [text for _, text in turns]
    tokenizer = create_tokenizer("character", texts=texts, chat=True, system=True).fast
    chats = Conversations((Chat(tuple(Message(*each) for each in turns)),))
    [[row]] = conversation_rows(chats, tokenizer, batch_tokens=100, context=100, seed=0).rows(0)
    learned = [each for each, is_ in zip(row.ids, row.learned, strict=True) if is_]
    assert tokenizer.decode(learned) == "Hi<|end|>Bye<|end|>"
    written = tokenizer.apply_chat_template([{"role": role, "content": text} for role, text in turns], tokenize=False)
    assert tokenizer.decode(row.ids) == written
    assert "<|system|> Be brief.<|end|>" in written


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
