from typing import Any

import pytest

from splitlearn_client.text.message_content import changed_messages


def said(*texts: str, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": text} for text in texts]


PARTS = [{"role": "user", "content": [{"type": "text", "text": each} for each in ("one", " ", "two ")]}]


@pytest.mark.parametrize(
    ("messages", "text", "changed"),
    [
        (said("one", "one", "  two\n"), "<one><one><two>", set()),
        (said("one", "two", "three"), "<one><tw><three>", {1, 2}),
        (said("one", " ", "two", ""), "<on><two>", {0, 2}),
        (said("one") + said("two", role="assistant") + said("three"), "<one><three>", set()),
        (said("one") + said("two", role="assistant") + said("three"), "<one><thr>", {2}),
        (PARTS, "<one><two>", set()),
        (PARTS, "<one>", {0}),
    ],
)
def test_messages_may_be_changed_from_the_first_on_that_is_not_in_the_text(
    messages: list[dict[str, Any]], text: str, changed: set[int]
) -> None:
    assert changed_messages(messages, text) == changed


def test_each_text_is_looked_for_behind_those_before_it_alone() -> None:
    assert changed_messages(said("one", "two"), "<two><one>") == {1}
    assert changed_messages(said("one", "one"), "<one>") == {1}
