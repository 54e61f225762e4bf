import random
import time
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from splitlearn_client.answer import AnswerText, TokenDelta, TokenLogprob
from splitlearn_client.sampling import Choice
from splitlearn_client.stopping import StopRules
from splitlearn_client.text.vocabulary import LOST, Vocabulary
from support.tiny_tokenizers import KINDS, byte_fallback, byte_level

TEXT = "the fox, the fox. grüße, 日本 😀 the end"


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    made: PreTrainedTokenizerFast = request.param()
    return made


def answered(
    tokenizer: PreTrainedTokenizerFast,
    ids: list[int],
    *,
    stops: tuple[str, ...] = (),
    ends: frozenset[int] = frozenset(),
    logprobs: bool = True,
    others: tuple[int, ...] = (),
    prompt: str = "the",
    **rules: Any,
) -> list[TokenDelta]:
    """The deltas of an answer of these tokens; `others` are its alternatives, behind the token itself."""
    before = tokenizer.encode(prompt, add_special_tokens=False)
    answer = AnswerText(Vocabulary(tokenizer), before, StopRules(stops, **rules), ends)
    deltas = []
    for n, token in enumerate(ids, 1):
        tops = tuple((other, -float(i)) for i, other in enumerate((token, *others)))
        choice = Choice(token, -0.5, tops) if logprobs else Choice(token)
        deltas.append(answer.add(choice, last=n == len(ids)))
        if deltas[-1].finish_reason is not None:
            break
    return deltas


def joined(deltas: list[TokenDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def entries(deltas: list[TokenDelta]) -> list[TokenLogprob]:
    return [entry for delta in deltas for entry in delta.logprobs]


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str = TEXT) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def check(deltas: list[TokenDelta]) -> None:
    """What holds of every answer's entries."""
    text, so_far = joined(deltas), 0
    assert "".join(entry.text for entry in entries(deltas)) == text
    assert b"".join(entry.spelled for entry in entries(deltas)) == text.encode()
    for entry in entries(deltas):
        assert entry.offset == so_far
        so_far += len(entry.text)
    for delta in deltas:
        assert "".join(entry.text for entry in delta.logprobs) == delta.text


def test_texts_and_bytes_of_the_tokens_join_to_the_answer_and_offsets_go_on(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = ids_of(tokenizer)
    deltas = answered(tokenizer, ids)
    check(deltas)
    assert len(entries(deltas)) == len(ids)
    assert joined(deltas).strip() == tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert [delta.finish_reason for delta in deltas] == [None] * (len(ids) - 1) + ["length"]


def test_a_prompt_of_special_tokens_alone_changes_nothing_about_that(tokenizer: PreTrainedTokenizerFast) -> None:
    for prompt in ("", "<s>", "<|turn|><s>"):
        check(answered(tokenizer, ids_of(tokenizer), prompt=prompt))


def test_without_log_probabilities_the_answer_is_the_same(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = ids_of(tokenizer)
    for stops in ((), ("fox.",), ("the fox, the", "never")):
        plain, told = (answered(tokenizer, ids, stops=stops, logprobs=logprobs) for logprobs in (False, True))
        assert joined(plain) == joined(told)
        assert plain[-1].finish_reason == told[-1].finish_reason
        assert entries(plain) == []


@pytest.mark.parametrize("stop", ["fox.", "ox, t", " the", "e"])
def test_tokens_of_a_stop_string_are_listed_with_what_they_said_before_it(
    tokenizer: PreTrainedTokenizerFast, stop: str
) -> None:
    deltas = answered(tokenizer, ids_of(tokenizer), stops=(stop,))
    whole = joined(answered(tokenizer, ids_of(tokenizer)))
    check(deltas)
    assert joined(deltas) == whole[: whole.index(stop)]
    assert deltas[-1].finish_reason == "stop"
    assert len(entries(deltas)) == len(deltas)


def test_text_that_only_began_like_a_stop_string_is_released_token_by_token(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = ids_of(tokenizer, "the fox, the end")
    plain, held = answered(tokenizer, ids), answered(tokenizer, ids, stops=("fox, the enx",))
    check(held)
    assert [entry.text for entry in entries(held)] == [entry.text for entry in entries(plain)]


@pytest.mark.parametrize("is_end", [False, True])
@pytest.mark.parametrize("stop", ["<|turn|>", "end<|turn|>"])
def test_a_stop_string_that_is_or_holds_a_special_token_ends_the_answer(
    tokenizer: PreTrainedTokenizerFast, stop: str, is_end: bool
) -> None:
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    ids = [*ids_of(tokenizer, "the end"), turn, *ids_of(tokenizer, "the fox")]
    ends = frozenset({turn}) if is_end else frozenset()
    deltas = answered(tokenizer, ids, stops=(stop,), ends=ends)
    check(deltas)
    whole = joined(answered(tokenizer, ids_of(tokenizer, "the end")))
    seen = stop.removesuffix("<|turn|>")
    # a vocabulary of words divides the text where it has spaces
    assert joined(deltas).replace(" ", "") == whole.replace(" ", "").removesuffix(seen)
    assert deltas[-1].finish_reason == "stop"


def test_the_entry_of_an_end_token_says_nothing_and_its_alternative_has_a_name(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    end = tokenizer.eos_token_id
    ids = [*ids_of(tokenizer, "the fox"), end]
    deltas = answered(tokenizer, ids, ends=frozenset({end}))
    check(deltas)
    assert (entries(deltas)[-1].token, entries(deltas)[-1].text, entries(deltas)[-1].spelled) == (end, "", b"")
    told = entries(answered(tokenizer, ids_of(tokenizer, "the fox"), others=(end,)))[-1].alternatives[-1]
    assert (told.text, told.spelled) == ("</s>", None)


@pytest.mark.parametrize("kind", [byte_level, byte_fallback])
def test_parts_of_characters_are_given_as_bytes(kind: type) -> None:
    tokenizer = kind()
    face = ids_of(tokenizer, "a😀")[-4:]
    deltas = answered(tokenizer, face, others=(face[0],))
    check(deltas)
    assert [entry.text for entry in entries(deltas)] == ["", "", "", "😀"]
    assert [entry.spelled for entry in entries(deltas)] == [b"\xf0", b"\x9f", b"\x98", b"\x80"]
    other = entries(deltas)[1].alternatives[1]
    assert (other.text, other.spelled) == ("bytes:\\xf0", b"\xf0")


def test_an_answer_that_ends_within_a_character_tells_the_bytes_it_has() -> None:
    tokenizer = byte_level()
    deltas = answered(tokenizer, ids_of(tokenizer, "a😀")[-4:-1])
    assert joined(deltas) == LOST == "".join(entry.text for entry in entries(deltas))
    assert b"".join(entry.spelled for entry in entries(deltas)) == "😀".encode()[:3]


def test_the_taken_token_is_among_its_alternatives_as_it_is_listed(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = ids_of(tokenizer)
    for entry in entries(answered(tokenizer, ids, others=tuple(ids[:3]))):
        assert len(entry.alternatives) == 4
        assert (entry.alternatives[0].text, entry.alternatives[0].spelled) == (entry.text, entry.spelled)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_any_tokens_with_any_stop_strings_give_consistent_logprobs(kind: type) -> None:
    tokenizer, random_numbers = kind(), random.Random(13)
    for _ in range(60):
        ids = [random_numbers.randrange(len(tokenizer)) for _ in range(random_numbers.randrange(1, 30))]
        whole = joined(answered(tokenizer, ids, logprobs=False))
        start = random_numbers.randrange(len(whole) + 1)
        stops = tuple(stop for stop in (whole[start : start + 3], "<|turn|>") if stop.strip(LOST))
        for asked in ((), stops):
            deltas = answered(tokenizer, ids, stops=asked)
            text, so_far = joined(deltas), 0
            assert text == joined(answered(tokenizer, ids, stops=asked, logprobs=False)), (kind, ids, asked)
            assert "".join(entry.text for entry in entries(deltas)) == text, (kind, ids, asked)
            for entry in entries(deltas):
                assert entry.offset == so_far
                so_far += len(entry.text)
            if LOST not in whole:
                spelled = b"".join(entry.spelled for entry in entries(deltas)).decode(errors="ignore")
                assert spelled == text, (kind, ids, asked)


def test_the_time_of_a_long_answer_is_in_proportion_to_its_length() -> None:
    tokenizer = byte_level()
    ids = ids_of(tokenizer, "the quick brown fox ") * 400

    def seconds(n: int) -> float:
        # of the processor, which others on the machine do not lengthen, and the least, without garbage collections
        def once() -> float:
            began = time.process_time()
            answered(tokenizer, ids[:n], stops=("never said",), others=tuple(range(5, 10)))
            return time.process_time() - began

        return min(once() for _ in range(3))

    seconds(200)
    assert seconds(3200) < 4 * 2 * seconds(800) + 0.5


@pytest.mark.parametrize("logprobs", [True, False])
@pytest.mark.parametrize("stop", ["fox.", " the", "e"])
def test_a_stop_string_is_part_of_the_text_if_the_request_says_so(
    tokenizer: PreTrainedTokenizerFast, stop: str, logprobs: bool
) -> None:
    ids = ids_of(tokenizer)
    deltas = answered(tokenizer, ids, stops=(stop,), logprobs=logprobs, include_stop_str_in_output=True)
    whole = joined(answered(tokenizer, ids))
    assert joined(deltas) == whole[: whole.index(stop) + len(stop)]
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", stop)
    if logprobs:
        check(deltas)


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_token_ends_the_answer_and_is_named_and_has_its_text_only_if_the_request_says_so(
    tokenizer: PreTrainedTokenizerFast, include: bool
) -> None:
    ids = ids_of(tokenizer)
    n_before = ids.index(ids[4])
    rules = {"stop_token_ids": frozenset({ids[4]}), "include_stop_str_in_output": include}
    deltas = answered(tokenizer, ids, **rules)
    check(deltas)
    assert joined(deltas) == joined(answered(tokenizer, ids[: n_before + include]))
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", ids[4])


def test_the_models_end_token_has_no_stop_reason_and_can_be_ignored(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = ids_of(tokenizer)
    ends = frozenset({ids[4]})
    ended = answered(tokenizer, ids, ends=ends)[-1]
    assert (ended.finish_reason, ended.stop_reason) == ("stop", None)
    deltas = answered(tokenizer, ids, ends=ends, ignore_eos=True)
    assert joined(deltas) == joined(answered(tokenizer, ids))
    assert deltas[-1].finish_reason == "length"


def test_no_stop_string_is_looked_for_in_the_first_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = ids_of(tokenizer, "the fox, the fox, the end")
    deltas = answered(tokenizer, ids, stops=("fox",), min_tokens=len(ids_of(tokenizer, "the fox,")))
    check(deltas)
    whole = joined(answered(tokenizer, ids))
    assert joined(deltas) == whole[: whole.index("fox", whole.index("fox") + 1)]
    unheard = answered(tokenizer, ids, stops=("fox",), min_tokens=len(ids))
    assert (joined(unheard), unheard[-1].finish_reason) == (whole, "length")


def test_a_complete_answer_stops_with_all_its_text_whether_or_not_it_is_the_last_token(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for last in (False, True):
        answer = AnswerText(Vocabulary(tokenizer), [], StopRules(("ox jumps",)))
        *before, final = ids_of(tokenizer, "the fox")
        deltas = [answer.add(Choice(token), last=False) for token in before]
        deltas.append(answer.add(Choice(final), last=last, complete=True))
        assert joined(deltas) == "the fox"
        assert [delta.finish_reason for delta in deltas] == [None] * len(before) + ["stop"]
        assert deltas[-1].stop_reason is None


def test_a_special_token_that_is_shown_has_its_name_in_the_text_and_in_its_entry() -> None:
    tokenizer = byte_level()
    vocabulary = Vocabulary(tokenizer)
    [turn] = tokenizer.encode("<|turn|>", add_special_tokens=False)
    ids = [*tokenizer.encode("a é", add_special_tokens=False), turn, *tokenizer.encode("b", add_special_tokens=False)]
    text = AnswerText(vocabulary, [], StopRules(), frozenset({2}), frozenset({turn, 2}))
    deltas = [text.add(Choice(token, -1.0), last=False) for token in [*ids, 2]]
    assert joined(deltas) == "a é<|turn|>b"
    assert "<|turn|>" in [entry.text for entry in entries(deltas)]
    # a token that ends the answer is not in its text
    assert deltas[-1].finish_reason == "stop"
    hidden = AnswerText(vocabulary, [], StopRules())
    assert joined([hidden.add(Choice(token), last=False) for token in ids]) == "a éb"


def test_a_shown_token_behind_a_part_of_a_character_comes_after_what_is_left_of_it() -> None:
    tokenizer = byte_level()
    [turn] = tokenizer.encode("<|turn|>", add_special_tokens=False)
    part = tokenizer.encode("é", add_special_tokens=False)[:1]
    text = AnswerText(Vocabulary(tokenizer), [], StopRules(), shown=frozenset({turn}))
    ids = [*part, turn, *tokenizer.encode("b", add_special_tokens=False)]
    deltas = [text.add(Choice(token), last=number == len(ids) - 1) for number, token in enumerate(ids)]
    assert joined(deltas) == f"{LOST}<|turn|>b"


def test_a_stop_string_is_found_across_the_name_of_a_shown_token() -> None:
    tokenizer = byte_level()
    [turn] = tokenizer.encode("<|turn|>", add_special_tokens=False)
    text = AnswerText(Vocabulary(tokenizer), [], StopRules(("a<|turn|>",)), shown=frozenset({turn}))
    deltas = [text.add(Choice(token), last=False) for token in [*tokenizer.encode("xa"), turn]]
    assert (joined(deltas), deltas[-1].finish_reason) == ("x", "stop")
