import pytest

from client_service.stopping import StopText


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
