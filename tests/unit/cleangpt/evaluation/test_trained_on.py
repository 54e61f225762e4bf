import json
from dataclasses import replace
from pathlib import Path

import pytest

from cleangpt.data.stdlib_questions import Question
from cleangpt.errors import ModelFolderError
from cleangpt.evaluation.trained_on import TRAINED_ON_FILE, other_text, write_trained_on


def test_equal_text_needs_no_words_and_other_text_is_named(
    tmp_path: Path, three_questions: tuple[Question, ...]
) -> None:
    assert other_text(tmp_path, three_questions) is None
    write_trained_on(tmp_path, three_questions)
    assert other_text(tmp_path, three_questions) is None
    assert other_text(tmp_path, three_questions[:2]) is not None
    # the same questions with another answer are another text
    first, *rest = three_questions
    assert other_text(tmp_path, [replace(first, answer="Turn around."), *rest]) is not None


def test_text_of_another_interpreter_is_named(tmp_path: Path, three_questions: tuple[Question, ...]) -> None:
    trained_on = {"python": "3.99.1", "questions": 7, "digest": "0"}
    (tmp_path / TRAINED_ON_FILE).write_text(json.dumps(trained_on))
    note = other_text(tmp_path, three_questions)
    assert note is not None
    assert "Python 3.99.1 (7 subjects)" in note


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"python": "3"}', "[" * 100_000])
def test_a_file_that_says_nothing_of_it_is_refused_by_name(
    tmp_path: Path, three_questions: tuple[Question, ...], content: str
) -> None:
    (tmp_path / TRAINED_ON_FILE).write_text(content)
    with pytest.raises(ModelFolderError, match=r"trained_on\.json .*remove it"):
        other_text(tmp_path, three_questions)
