import logging
import os
import subprocess
import sys

import pytest

from cleangpt.data.small_talk import UNKNOWN_ANSWER
from cleangpt.data.stdlib_questions import MAX_ANSWER_CHARS, Question, collect_questions, first_words


@pytest.fixture(scope="module")
def questions() -> tuple[Question, ...]:
    return collect_questions()


def test_copyfile_is_asked_and_answered_with_its_docstring(questions: tuple[Question, ...]) -> None:
    found = next(each for each in questions if each.subject == "shutil.copyfile")
    assert found.phrasings[0] == "What does shutil.copyfile do?"
    assert found.answer == "Copy data from src to dst in the most efficient way possible."


def test_a_process_that_imported_nothing_else_and_hashes_otherwise_collects_the_same_questions(
    questions: tuple[Question, ...],
) -> None:
    # packages loaded here add methods to classes of the standard library, transformers to logging.Logger
    assert hasattr(logging.Logger, "warning_once")
    program = "import sys, cleangpt.data.stdlib_questions as s; sys.stdout.reconfigure(encoding='utf-8')"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; print(s.collect_questions())"],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().strip() == str(questions)


def test_no_phrasing_is_asked_twice(questions: tuple[Question, ...]) -> None:
    asked = [prompt for each in questions for prompt in each.phrasings]
    assert len(asked) == len(set(asked))


def test_there_are_questions_of_every_kind(questions: tuple[Question, ...]) -> None:
    assert {each.kind for each in questions} == {"function", "class", "module", "topic", "talk", "unknown"}
    assert len(questions) > 1000


def test_every_answer_is_one_short_paragraph_of_whole_sentences(questions: tuple[Question, ...]) -> None:
    for each in questions:
        assert each.answer == " ".join(each.answer.split()), each
        assert len(each.answer) > 0, each
        assert each.answer[-1] in ".!?", each
        assert len(each.answer) <= MAX_ANSWER_CHARS + 1 or each.kind == "talk", each


def test_made_up_names_exist_nowhere_else(questions: tuple[Question, ...]) -> None:
    known = {each.subject for each in questions if each.kind != "unknown"}
    made_up = {each.subject for each in questions if each.answer == UNKNOWN_ANSWER}
    assert made_up
    assert not known & made_up


def test_an_interpreter_without_docstrings_is_refused_with_what_to_do() -> None:
    program = (
        "from cleangpt.errors import DocumentationMissingError as E\n"
        "from cleangpt.data.stdlib_questions import collect_questions\n"
        "try: collect_questions()\n"
        "except E as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-OO", "-c", program], capture_output=True, check=True, text=True)
    assert "run python without -OO" in done.stdout


@pytest.mark.parametrize(
    ("docstring", "name", "expected"),
    [
        ("Copy a file.\n\nMore about it.", "", "Copy a file."),
        ("Copy a file. Then\n    stop there.", "", "Copy a file. Then stop there."),
        ("copy(src, dst) -> None\n\nCopy a file to dst", "copy", "Copy a file to dst."),
        ("deque([iterable]) --> deque object\n\nA list-like sequence.", "deque", "A list-like sequence."),
        ("r(stop) -> r object\nr(start, stop) -> r object\n\nCount upwards.", "r", "Count upwards."),
        ("D.pop(k) -> v, remove the key k.", "pop", "Remove the key k."),
        ("difflib -- compare things, e.g. lines.", "difflib", "Compare things, e.g. lines."),
        ("Use :func:`os.walk` or ``glob`` here.", "", "Use os.walk or glob here."),
        ("“Smart” quotes — gone.", "", '"Smart" quotes - gone.'),
        ("Short.  " + "And far too long " * 20, "", None),
        ("Works.  but is cut here when the rest is long " + "x" * 200, "", None),
        ("Works well.  but is cut here as the rest is long " + "x" * 200, "", None),
        ("Works as it should.  then the rest is long " + "x" * 200, "", "Works as it should."),
        ("x" * 300, "", None),
        ("The keys are:", "", None),
        (">>> copy(1)\n1", "", None),
        ("copy(src, dst)", "copy", None),
        ("", "", None),
        (None, "", None),
    ],
)
def test_first_words(docstring: str | None, name: str, expected: str | None) -> None:
    assert first_words(docstring, name) == expected
