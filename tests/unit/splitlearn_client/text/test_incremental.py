from collections.abc import Callable

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from splitlearn_client.text.incremental import IncrementalText
from splitlearn_client.text.vocabulary import LOST, Vocabulary
from support.tiny_tokenizers import KINDS, byte_fallback, byte_level

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    " leading and  double   spaces ",
    "Grüße, œuvre, naïve",
    "日本語のテキスト、漢字とかな",
    "family 👨‍👩‍👧‍👦 and flags 🇯🇵🇩🇪, then text",
    "😀😁😂🤣😃😄😅😆😉😊",
    "line\nbreak\ttab\r\n",
]


class Counting(Vocabulary):
    """Counts the tokens that are decoded."""

    decoded = 0

    def decode(self, ids: list[int]) -> str:
        self.decoded += len(ids)
        return super().decode(ids)


@pytest.fixture(params=[byte_level, byte_fallback])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    made: PreTrainedTokenizerFast = request.param()
    return made


def pieces(tokenizer: PreTrainedTokenizerFast, prompt: list[int], answer: list[int]) -> list[str]:
    """What each token adds, and what is left at the end."""
    text = IncrementalText(Vocabulary(tokenizer), prompt)
    return [*(text.feed(token) for token in answer), text.flush()]


def decoded(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_token_by_token_is_the_answer_at_once(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    prompt, answer = tokenizer.encode("the fox"), tokenizer.encode(text)
    said = pieces(tokenizer, prompt, answer)
    assert "".join(said) == decoded(tokenizer, [*prompt, *answer]).removeprefix("the fox")
    assert "".join(said).strip() == text.strip()


@pytest.mark.parametrize("text", TEXTS)
def test_no_piece_holds_a_broken_character(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert LOST not in "".join(pieces(tokenizer, tokenizer.encode("the"), tokenizer.encode(text)))


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_goes_on_wherever_between_two_characters_the_prompt_ended(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    ids = tokenizer.encode(text)
    for cut in range(1, len(ids)):
        begun = decoded(tokenizer, ids[:cut])
        if not begun.endswith(LOST):
            assert begun + "".join(pieces(tokenizer, ids[:cut], ids[cut:])) == decoded(tokenizer, ids)


def test_a_character_that_the_prompt_began_is_said_when_it_is_complete(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode("a😀")
    assert pieces(tokenizer, ids[:-2], ids[-2:]) == ["", "😀", ""]


def test_of_broken_bytes_at_the_end_of_a_prompt_only_those_that_make_a_character_are_said_again() -> None:
    tokenizer = byte_level()
    # EA begins a character that CB breaks off; 9D completes one with CB
    prompt = [*tokenizer.encode("so", add_special_tokens=False), *tokenizer.convert_tokens_to_ids(["ê", "Ë"])]
    assert "".join(pieces(tokenizer, prompt, [tokenizer.convert_tokens_to_ids("Ŀ")])) == "\u02dd"


def test_a_character_spread_over_tokens_comes_with_its_last_one(tokenizer: PreTrainedTokenizerFast) -> None:
    face = tokenizer.encode("a😀")[-4:]
    said = pieces(tokenizer, tokenizer.encode("the"), [*face, *tokenizer.encode("b")[-1:]])
    assert said[:3] == ["", "", ""]
    assert said[3] == "😀"
    assert said[4].strip() == "b"


def test_spaces_between_words_are_kept(tokenizer: PreTrainedTokenizerFast) -> None:
    # as in the middle of a text; some tokenizers put a space in front of a text of its own
    answer = tokenizer.encode("the the the")[len(tokenizer.encode("the")) :]
    assert "".join(pieces(tokenizer, tokenizer.encode("the"), answer)) == " the the"


@pytest.mark.parametrize("n_special", [1, 7, 100])
def test_tokens_without_a_text_do_not_take_the_space_from_the_word_behind_them(
    tokenizer: PreTrainedTokenizerFast, n_special: int
) -> None:
    special = [tokenizer.convert_tokens_to_ids("<|turn|>")] * n_special
    word = tokenizer.encode("the the")[len(tokenizer.encode("the")) :]
    before = tokenizer.encode("the")
    assert "".join(pieces(tokenizer, [*before, *special], word)) == " the"
    assert "".join(pieces(tokenizer, before, [*special, *word])) == " the"


def test_what_is_incomplete_when_no_more_tokens_come_is_flushed(tokenizer: PreTrainedTokenizerFast) -> None:
    half = tokenizer.encode("a😀")[-4:-2]
    said = pieces(tokenizer, tokenizer.encode("the"), half)
    assert said[:-1] == ["", ""]
    assert set(said[-1]) == {LOST}


def test_bytes_that_make_no_character_do_not_swallow_the_text_after_them(tokenizer: PreTrainedTokenizerFast) -> None:
    half, rest = tokenizer.encode("a😀")[-4:-2], tokenizer.encode("athe fox")[1:]
    said = "".join(pieces(tokenizer, tokenizer.encode("the"), [*half, *rest]))
    assert said.lstrip(LOST).endswith("fox")


def test_a_character_behind_bytes_that_make_none_is_whole() -> None:
    tokenizer = byte_level()
    face = tokenizer.encode("a😀")[-4:]
    said = "".join(pieces(tokenizer, tokenizer.encode("the"), [*face[:1] * 9, *face]))
    assert said == LOST * 9 + "😀"


def test_an_answer_of_bytes_that_make_no_character_takes_no_longer_than_one_of_letters(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    def cost(token: int, n: int = 500) -> int:
        words = Counting(tokenizer)
        text = IncrementalText(words, tokenizer.encode("the"))
        words.decoded = 0
        for _ in range(n):
            text.feed(token)
        return words.decoded // n

    lead, letter = tokenizer.encode("a😀")[-4], tokenizer.encode("ab")[-1]
    assert max(cost(lead), cost(letter)) <= IncrementalText._LONGEST


def test_a_special_token_adds_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(tokenizer, tokenizer.encode("the"), [tokenizer.eos_token_id]) == ["", ""]


def test_bytes_that_spoil_earlier_ones_lose_no_text() -> None:
    # a tokenizer of this kind takes a row of bytes as a whole, so that one of them undoes characters already said
    tokenizer = byte_fallback()
    spell = tokenizer.convert_tokens_to_ids
    accented, broken, letter = [spell("<0xC3>"), spell("<0xBC>")], spell("<0xE9>"), spell("o")
    prompt = tokenizer.encode("the")
    assert "".join(pieces(tokenizer, prompt, [*accented, broken, broken, letter])) == f"ü{LOST}{LOST}o"
    assert "".join(pieces(tokenizer, prompt, [*accented, broken])) == f"ü{LOST}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_token_s_text_is_lost_where_others_change_what_is_before_them(
    kind: Callable[[], PreTrainedTokenizerFast],
) -> None:
    # BERT's decoder takes the spaces around an apostrophe away once it sees what is behind it
    tokenizer = kind()
    answer = tokenizer.encode("it's the fox. do n't, the", add_special_tokens=False)
    said = "".join(pieces(tokenizer, tokenizer.encode("the", add_special_tokens=False), answer))
    assert said.replace(" ", "") == decoded(tokenizer, answer).replace(" ", "")


@seed(13)
@settings(max_examples=60, deadline=None, database=None)
@given(cut=st.data())
def test_any_tokens_give_what_decoding_them_at_once_gives(cut: st.DataObject) -> None:
    ids = cut.draw(st.lists(st.integers(0, len(BYTES) - 1), max_size=40))
    assert "".join(pieces(BYTES, [], ids)) == decoded(BYTES, ids)


BYTES = byte_level()
