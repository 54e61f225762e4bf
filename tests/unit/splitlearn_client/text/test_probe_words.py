from typing import Any

from splitlearn_client.text.probe_words import WORD, Probe, n_said, shape_of

PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": " "}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": "hello"},
    {"role": "user", "content": PARTS},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
]


def shown(message: Any) -> str:
    content = message["content"] or ""
    said = content if isinstance(content, str) else "".join(part["text"] for part in content)
    return said + "".join(call["function"]["name"] for call in message.get("tool_calls", ()))


def test_nothing_is_left_out_of_what_is_shown_whole() -> None:
    probe = Probe()
    texts = [shown(probe.shadow(message, index)) for index, message in enumerate(CONVERSATION)]
    assert probe.first_left_out("".join(texts).upper()) is None
    assert len("".join(texts)) <= probe.length
    for index in range(3):
        assert probe.first_left_out("".join(texts[:index] + texts[index + 1 :])) == index


def test_a_word_stands_at_the_beginning_in_the_middle_and_at_the_end_of_a_text() -> None:
    probe = Probe()
    text = shown(probe.shadow(CONVERSATION[0], 0))
    assert len(text) > 255
    words = [line for line in text.splitlines() if len(line) == len(WORD) and line.startswith("zqprobe")]
    assert len(words) == 3
    assert text.startswith(words[0])
    assert text.endswith(words[-1])
    for part in (text[1:], text[:-1], text[:100] + text[-100:]):
        assert probe.first_left_out(part) == 0


def test_a_part_that_is_printed_as_it_is_is_as_good_as_left_out() -> None:
    probe = Probe()
    shadows = [probe.shadow(message, index) for index, message in enumerate(CONVERSATION)]
    printed = f"{shadows[0]['content']}{shadows[1]['content']}{shown(shadows[2])}"
    assert probe.first_left_out(printed) == 1
    assert len(printed) <= probe.length + 64


def test_messages_of_one_shape_differ_in_their_words_alone() -> None:
    assert shape_of({"role": "user", "content": "a"}) == shape_of({"role": "user", "content": "b c"})
    others = [*CONVERSATION, {"role": "user", "content": " "}, {"role": "user", "content": "a", "name": "b"}]
    assert len(set(map(shape_of, others))) == len(others)
    assert list(map(n_said, CONVERSATION)) == [1, 2, 2]


def test_words_stand_around_texts_and_not_in_blank_ones() -> None:
    probe = Probe()
    first, _, last = shown(probe.around(CONVERSATION[0], 0)).split("\n")
    assert shown(probe.around(CONVERSATION[1], 1)).endswith(PARTS[1]["text"])
    assert probe.first_left_out(first + last) == 1
    assert shown(probe.around({"role": "user", "content": " \n"}, 2)) == " \n"
