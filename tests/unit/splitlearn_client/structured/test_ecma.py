import re

import pytest
from llguidance import LLMatcher

from splitlearn_client.structured.ecma import UnsupportedPattern, literal, translated
from support.followed import BYTES


def matches(pattern: str, text: str) -> bool:
    matcher = LLMatcher(BYTES, LLMatcher.grammar_from_regex(translated(pattern)), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    spelled = list(text.encode())
    return matcher.try_consume_tokens(spelled) == len(spelled) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("pattern", "right", "wrong"),
    [
        (r"\d+", ["0", "12"], ["a", "٣"]),
        (r"\D", ["a", "٣"], ["0"]),
        (r"\w{2}", ["a_", "Z9"], ["é_", "a-"]),
        (r"\W", ["é", "-"], ["a"]),
        (r"\s", [" ", "\t", "\x0b", "\u00a0", "\ufeff"], ["a", "\u200b"]),
        (r"\S", ["a", "\u200b"], [" ", "\ufeff"]),
        (".", ["a", "é", "\U0001f600"], ["\n", "\r", "\u2028", "\u2029"]),
        (r"[\d\s_-]+", ["1 _-", "\ufeff"], ["a"]),
        ("[a-c]", ["a", "c"], ["d", "-"]),
        ("[-a]", ["-", "a"], ["b"]),
        ("[^a]", ["b", "\n"], ["a"]),
        ("[a&&b]", ["a", "&", "b"], ["c"]),
        ("[[a]", ["[", "a"], ["b"]),
        (r"\u00e9\xe9\u{e9}", ["ééé"], ["ee"]),
        (r"\ud83d\ude00+", ["\U0001f600", "\U0001f600\U0001f600"], [""]),
        (r"\/\.\-\{", ["/.-{"], ["/a-{"]),
        ("(?<name>a)(?:b)(c)", ["abc"], ["ab"]),
        ("a{2,3}b{2}c{1,}", ["aabbc", "aaabbcc"], ["abbc", "aabb"]),
        (r"\p{Lu}", ["A", "É"], ["a"]),
    ],
)
def test_a_pattern_means_what_it_means_in_ecma(pattern: str, right: list[str], wrong: list[str]) -> None:
    assert [text for text in right if not matches(pattern, text)] == []
    assert [text for text in wrong if matches(pattern, text)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?<!a)",
        "(?i)a",
        r"(a)\1",
        r"\b",
        r"\a",
        r"\z",
        "a{",
        "[]",
        "[a",
        "a\\",
        r"[\W]",
        r"\ud83d",
    ],
)
def test_what_has_no_translation_is_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedPattern):
        translated(pattern)


def test_a_literal_is_that_text_alone() -> None:
    text = "a.*[é\U0001f600]\\"
    assert matches(re.escape("x"), "x")
    matcher = LLMatcher(BYTES, LLMatcher.grammar_from_regex(literal(text)), log_level=0)
    assert matcher.try_consume_tokens(list(text.encode())) == len(text.encode())
    assert matcher.is_accepting()
