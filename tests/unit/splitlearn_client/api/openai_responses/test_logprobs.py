import pytest

from splitlearn_client.answer import TokenLogprob
from splitlearn_client.api.openai_responses.logprobs import TextLogprobs


def waiting(*texts: str) -> TextLogprobs:
    found = TextLogprobs()
    found.add(TokenLogprob(5, text, text.encode(), -0.5, 0) for text in texts)
    return found


@pytest.mark.parametrize(
    ("texts", "text", "own", "rest"),
    [
        (["So"], "So", ["So"], []),
        (["", "é"], "é", ["", "é"], []),
        (["é", ""], "é", ["é"], [""]),
        (["</think>", "\n", "So"], "So", ["So"], []),
        (["</think>", "\nSo"], "So", ["\nSo"], []),
        (["So", "<tool_call>"], "So", ["So"], ["<tool_call>"]),
        (["So<tool", "_call>"], "So", ["So<tool"], ["_call>"]),
        (["a", "a", "b"], "aab", ["a", "a", "b"], []),
        ([], "So", [], []),
    ],
)
def test_a_text_takes_its_own_tokens(texts: list[str], text: str, own: list[str], rest: list[str]) -> None:
    found = waiting(*texts)
    assert [each["token"] for each in found.of(text)] == own
    assert [each["token"] for each in found.of("".join(rest))] == [each for each in rest if each]


def test_what_is_forgotten_belongs_to_no_text() -> None:
    found = waiting("a")
    found.forget()
    assert found.of("a") == []
