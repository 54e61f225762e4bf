from itertools import islice
from typing import Final

import pytest

from tests.benchmarks.code_model.editing import KINDS, Conversation, conversations, functions_of, word_lists

SOURCE: Final = '''
import os

def area(width, height):
    """Return the area of a rectangle."""
    # in square metres
    return width * height * 10000

class Box:
    def volume(self, depth):
        """Return the volume of the box."""
        inner = area(self.width, self.height)
        return inner * depth

def described_only():
    """Return nothing at all."""

def plain(path):
    if os.path.exists(path):
        return 'there'
    return None
'''
FUNCTIONS: Final = list(functions_of(SOURCE))


def asked(kind: str, n: int = 400) -> list[Conversation]:
    return [each for each in islice(conversations(FUNCTIONS, "seed", 1000), n) if each.kind == kind]


def test_functions_stand_alone_with_and_without_their_docstring() -> None:
    area, plain, volume = sorted(FUNCTIONS, key=lambda each: each.text)
    assert area.text.startswith("def area")
    assert '"""Return the area' in area.text
    assert area.bare == "def area(width, height):\n    # in square metres\n    return width * height * 10000"
    assert area.summary == "Return the area of a rectangle."
    assert volume.text.splitlines()[1] == '    """Return the volume of the box."""'
    assert plain.summary is None
    assert plain.text == plain.bare


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_asked_and_equal_seeds_ask_the_same(kind: str) -> None:
    found = asked(kind)
    assert found
    assert found == asked(kind)
    assert all(each.answer and each.messages[1]["content"] == each.answer for each in found)


def code(each: Conversation) -> str:
    return each.question.split("\n", 1)[1]


def test_what_is_copied_joined_or_completed_is_the_code_itself() -> None:
    bare = {each.bare for each in FUNCTIONS}
    assert all(each.answer == code(each) in bare for each in asked("copy"))
    assert all(f"{code(each)}\n{each.answer}" in bare for each in asked("complete"))
    for each in asked("join"):
        first, second = code(each).split("\n\n")
        assert each.answer == f"{second}\n\n{first}"


def test_a_name_that_is_changed_is_gone_and_the_rest_stays() -> None:
    for each in asked("rename"):
        assert each.answer != code(each)
        words = each.question.split("\n")[0].rstrip(".").replace(" instead", "").split(" ")
        old, new = (words[1], words[2]) if words[0] == "Call" else (words[-3], words[-1])
        assert each.answer == code(each).replace(old, new)


def test_what_is_removed_is_the_docstring() -> None:
    assert all('"""' in code(each) and '"""' not in each.answer for each in asked("remove"))


def test_longer_code_than_asked_for_does_not_come() -> None:
    assert all(len(code(each)) <= 90 for each in islice(conversations(FUNCTIONS, "seed", 90), 50))


def test_lists_of_names_are_to_be_copied() -> None:
    lists = [*islice(word_lists(FUNCTIONS, "seed", 5), 50)]
    assert {len(each.answer.split()) for each in lists} == {2, 3, 4, 5}
    for each in lists:
        assert each.question.endswith(f"\n{each.answer}")
        assert all(any(word in known.bare for known in FUNCTIONS) for word in each.answer.split())
    assert lists == [*islice(word_lists(FUNCTIONS, "seed", 5), 50)]
