import time

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from splitlearn_client.stopping import StopText


@pytest.mark.parametrize("pieces", [["go on STOP and more"], ["go S", "T", "O", "P!"], ["go STOP"]])
def test_a_stop_string_that_is_to_be_passed_on_ends_the_text_all_the_same(pieces: list[str]) -> None:
    text = StopText(("STOP", "P and"), passes=True)
    passed = [text.feed(piece) for piece in pieces]
    assert "".join(passed) == "".join(pieces).split("STOP")[0] + "STOP"
    assert (text.flush(), text.matched) == ("", "STOP")


def test_of_several_stop_strings_that_end_at_once_the_longest_is_named() -> None:
    text = StopText(("p", "stop", "op"))
    assert (text.feed("a stop"), text.matched) == ("a ", "stop")


def test_a_hidden_token_may_complete_a_stop_string_that_is_named() -> None:
    text = StopText(("done<|end|>",))
    assert text.feed("is done") == "is "
    assert (text.feed_hidden("<|end|>"), text.matched) == ("", "done<|end|>")


def fed(stops: tuple[str, ...], pieces: list[str]) -> tuple[list[str], str, bool]:
    """What each piece let through, what was left at the end, and whether a stop string came."""
    text = StopText(stops)
    passed = [text.feed(piece) for piece in pieces]
    return passed, text.flush(), text.hit


def test_without_stop_strings_all_text_passes_at_once() -> None:
    assert fed((), ["a", "", "bc"]) == (["a", "", "bc"], "", False)


def test_a_stop_string_within_one_piece_ends_the_text_before_it() -> None:
    assert fed(("STOP",), ["go on STOP and more"]) == (["go on "], "", True)


def test_a_stop_string_spread_over_pieces_is_held_back_until_it_is_whole() -> None:
    assert fed(("STOP",), ["go S", "T", "O", "P!"]) == (["go ", "", "", ""], "", True)


def test_what_only_began_like_a_stop_string_is_passed_on_when_it_turns_out_otherwise() -> None:
    assert fed(("STOP",), ["S", "TO", "RE"]) == (["", "", "STORE"], "", False)


def test_only_as_much_is_held_back_as_may_begin_a_stop_string() -> None:
    assert fed(("\n\n",), ["line\n", "next"]) == (["line", "\nnext"], "", False)


def test_a_false_beginning_may_hold_the_true_one() -> None:
    # the first "aa" begins the stop string, but it is the second "a" with which it really begins
    assert fed(("aab",), ["a", "a", "a", "b"]) == (["", "", "a", ""], "", True)


def test_what_is_held_back_when_no_more_text_comes_is_given_out() -> None:
    assert fed(("STOP",), ["no ST"]) == (["no "], "ST", False)


def test_the_first_of_several_stop_strings_in_the_text_counts() -> None:
    assert fed(("zwei", "one"), ["and one and zwei"]) == (["and "], "", True)


def test_the_longest_possible_beginning_of_any_stop_string_is_held_back() -> None:
    assert fed(("ab", "xabc"), ["1xa"]) == (["1"], "xa", False)


def test_after_a_stop_string_nothing_more_comes_out() -> None:
    text = StopText(("x",))
    assert text.feed("axb") == "a"
    assert text.feed("c") == ""
    assert text.flush() == ""


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_way_a_text_is_divided_changes_nothing(size: int) -> None:
    whole = "abababcababd stop here"
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    passed, rest, hit = fed(("ababd", "never"), pieces)
    assert "".join(passed) + rest == "abababc"
    assert hit


def test_of_several_stop_strings_the_one_that_is_complete_first_counts_however_the_text_is_divided() -> None:
    assert "".join(fed(("abcd", "bc"), ["xabcd"])[0]) == "xa"
    assert "".join(fed(("abcd", "bc"), list("xabcd"))[0]) == "xa"


def test_of_stop_strings_that_are_complete_together_the_longest_counts() -> None:
    assert fed(("c", "abc"), ["xabc"]) == (["x"], "", True)


HIDDEN = "<|end|>"


def said(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    """What is passed on of pieces of which those in angle brackets are tokens that readers do not see."""
    text = StopText(stops)
    passed = [text.feed_hidden(piece) if piece.startswith("<") else text.feed(piece) for piece in pieces]
    return "".join(passed) + text.flush(), text.hit


@pytest.mark.parametrize(
    ("stop", "pieces", "passed"),
    [
        (HIDDEN, ["all ", "said", HIDDEN, "more"], "all said"),
        ("said" + HIDDEN, ["all ", "sa", "id", HIDDEN, "more"], "all "),
        (HIDDEN + "user", ["said", HIDDEN, "us", "er", "more"], "said"),
        ("d" + HIDDEN + "<|turn|>u", ["said", HIDDEN, "<|turn|>", "user"], "sai"),
        ("end", ["said", HIDDEN, "more"], "said"),
    ],
)
def test_a_stop_string_with_a_token_that_readers_do_not_see_ends_the_text(
    stop: str, pieces: list[str], passed: str
) -> None:
    assert said((stop,), pieces) == (passed, True)


def test_a_stop_string_is_found_around_a_token_that_readers_do_not_see() -> None:
    assert said(("stop",), ["go st", HIDDEN, "op here"]) == ("go ", True)


def test_what_only_began_like_a_stop_string_with_such_a_token_is_passed_on() -> None:
    assert said(("said" + HIDDEN + "!",), ["all said", HIDDEN, "?"]) == ("all said?", False)
    assert said(("said" + HIDDEN,), ["all said", "<|turn|>", HIDDEN]) == ("all said", False)


def expected(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    """The same by looking at the whole text after each character."""
    seen, full, visible = "", "", [0]
    for piece in pieces:
        for character in piece:
            full += character
            seen += "" if piece.startswith("<") else character
            visible.append(len(seen))
            cuts = [len(seen) - len(stop) for stop in stops if not piece.startswith("<") and seen.endswith(stop)]
            cuts += [visible[len(full) - len(stop)] for stop in stops if full.endswith(stop)]
            if cuts:
                return seen[: min(cuts)], True
    return seen, False


@seed(13)
@settings(max_examples=150, deadline=None, database=None)
@given(
    st.lists(st.text("ab<>", min_size=1, max_size=5), min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "b", "ab", "ba", "aab", "", "<a>", "<>", "<b>"]), max_size=30),
)
def test_the_same_comes_out_as_by_looking_at_the_whole_text(stops: list[str], pieces: list[str]) -> None:
    assert said(tuple(stops), pieces) == expected(tuple(stops), pieces)


def test_a_long_stop_string_that_nearly_comes_takes_time_in_proportion_to_the_text() -> None:
    def seconds(n: int) -> float:
        began, text = time.process_time(), StopText(("a" * n + "b",))
        for _ in range(n):
            text.feed("aa")
        text.feed_hidden(HIDDEN)
        return time.process_time() - began

    seconds(100)
    # the least of several: others may use the machine
    assert min(seconds(40_000) for _ in range(3)) < 8 * min(seconds(10_000) for _ in range(3)) + 0.2
