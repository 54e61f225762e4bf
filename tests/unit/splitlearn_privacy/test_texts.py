from pathlib import Path

import pytest
import torch

from cleangpt.tokenizers import create_tokenizer
from splitlearn_privacy.errors import TooLittleText
from splitlearn_privacy.texts import Document, Texts, documents, prompts_alike

DEMO = Path(__file__).parents[3] / "deploy/demo_model"

DOCUMENTS = [Document(tuple(range(number * 100, number * 100 + 10)), (True,) * 10) for number in range(40)]


def test_a_document_is_learned_from_or_read_and_never_both() -> None:
    texts = Texts.cut(DOCUMENTS, 4, 1000, 1000)

    learned, read = ({int(i) // 100 for i in each.flatten()} for each in (texts.training_NT, texts.test_NT))
    assert learned | read == set(range(40))
    assert not learned & read
    assert (len(texts.training_NT), len(texts.test_NT)) == (60, 20)


def test_a_text_that_is_learned_from_is_not_read_though_another_document_has_it() -> None:
    documents = [*DOCUMENTS, DOCUMENTS[1]]

    texts = Texts.cut(documents, 4, 1000, 1000)

    read = {tuple(each) for each in texts.test_NT.tolist()}
    assert not read & {tuple(each) for each in texts.training_NT.tolist()}


def test_texts_are_as_many_as_asked_for_and_from_all_documents() -> None:
    texts = Texts.cut(DOCUMENTS, 10, 20, 5)

    assert texts.training_NT.shape == (20, 10)
    assert texts.test_NT.shape == (5, 10)
    assert int(texts.training_NT.max()) // 100 > 35


def test_too_little_text_is_refused_with_what_was_found() -> None:
    with pytest.raises(TooLittleText, match="40 documents give 0 texts of 11 tokens"):
        Texts.cut(DOCUMENTS, 11, 100, 100)


def test_conversations_are_written_by_the_chat_template_and_begin_alike() -> None:
    tokenizer = create_tokenizer("hugging_face", folder=DEMO)

    found = documents("stdlib-questions", tokenizer)

    asked, answered = tokenizer.decode(found[0].ids).split("<|assistant|>")
    assert asked.startswith("<|user|>")
    assert tokenizer.decode(found[0].ids[: found[0].n_asked]) == f"{asked}<|assistant|>"
    said = [id_ for id_, is_said in zip(found[0].ids, found[0].is_said, strict=True) if is_said]
    assert tokenizer.decode(said) == answered
    texts = Texts.cut(found, 24, 50, 10)
    assert texts.n_common == 1
    assert (texts.training_NT[:, 0] == texts.test_NT[0, 0]).all()


def test_running_text_is_cut_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("def f(): return 1\n" * 40)
    tokenizer = create_tokenizer("hugging_face", folder=DEMO)

    (only,) = documents(str(tmp_path / "some.txt"), tokenizer)

    assert tokenizer.decode(only.ids) == "def f(): return 1\n" * 40


def test_texts_that_end_before_an_answer_are_refused() -> None:
    asked = [Document(each.ids, (False,) * 10) for each in DOCUMENTS]

    with pytest.raises(TooLittleText, match="no conversation comes to an answer within 5 tokens"):
        Texts.cut(asked, 5, 20, 5)


def test_of_a_conversation_only_the_beginning_is_a_text() -> None:
    asked = [Document(each.ids, (False, *each.is_said[1:])) for each in DOCUMENTS]

    texts = Texts.cut(asked, 4, 100, 100)

    assert (len(texts.training_NT), len(texts.test_NT)) == (30, 10)
    assert all(first % 100 == 0 for first in texts.test_NT[:, 0].tolist())


def test_only_what_texts_begin_with_is_common() -> None:
    ids_NT = torch.tensor([[1, 2, 5], [1, 3, 5]])

    assert Texts(ids_NT[:1], ids_NT[1:], ids_NT[1:] > 0).n_common == 1


def _asked(*ids: int, n_said: int = 1) -> Document:
    return Document((*ids, *n_said * (9,)), (*(False for _ in ids), *n_said * (True,)))


def test_prompts_of_the_most_common_length_come_first_and_each_once() -> None:
    found = [_asked(1), _asked(2, 2), _asked(1, 2, 3), _asked(3, 4), _asked(2, 2), Document((5, 5), (True, True))]

    assert prompts_alike(found, 3, None, 9) == [(2, 2), (3, 4), (1,)]
    assert prompts_alike(found, 9, 2, 9) == [(2, 2), (3, 4), (1,)]
    # nothing is said in the second
    assert prompts_alike([_asked(1), Document((5, 5), (False, False))], 9, None, 9) == [(1,)]


def test_answers_are_alike_too_as_far_as_they_are_waited_for() -> None:
    found = [_asked(1, n_said=1), _asked(2, n_said=4), _asked(3, n_said=2), _asked(4, n_said=3)]

    # three of them have two tokens or more
    assert prompts_alike(found, 3, None, 2) == [(2,), (3,), (4,)]
    assert prompts_alike(found, 1, None, 9) == [(1,)]
