from splitlearn_privacy.texts import Document
from splitlearn_privacy.traffic import Frames, Observer, Step, Trace, steps, traces

ENDS = frozenset({ord("."), ord("!")})


def dialogue(asked: str, answered: str) -> Document:
    """Letters are tokens."""
    ids = tuple(map(ord, asked + answered))
    return Document(ids, (False,) * len(asked) + (True,) * len(answered))


def named(found: list[Trace]) -> dict[tuple[Frames, Observer], float]:
    return {(each.frames, each.observer): each.named.value for each in found}


def test_texts_of_other_lengths_are_told_apart_by_sizes_alone() -> None:
    found = named(traces([dialogue("abc", "xy"), dialogue("abcd", "xy"), dialogue("abc", "xyz")], 4, ENDS))

    assert set(found.values()) == {1.0}


def test_padded_frames_of_equal_number_look_alike_to_the_network_and_not_to_the_worker() -> None:
    # one step behind the first token, with three guesses: one is right, or none
    found = named(traces([dialogue("abXa", "bXQ"), dialogue("abXa", "bQ")], 3, ENDS))

    assert found[Frames.PLAIN, Observer.NETWORK] == 1
    assert found[Frames.GUESSES, Observer.NETWORK] == 0.5
    assert found[Frames.GUESSES, Observer.WORKER] == 1
    assert found[Frames.PADDED, Observer.NETWORK] == 0.5
    assert found[Frames.PADDED, Observer.WORKER] == 1


def test_padding_hides_how_many_guesses_there_were() -> None:
    # the first has guesses in its only step, the second has none
    found = named(traces([dialogue("abXa", "bQ"), dialogue("cdXe", "fQ")], 3, ENDS))

    assert found[Frames.GUESSES, Observer.NETWORK] == 1
    assert found[Frames.PADDED, Observer.NETWORK] == 0.5


def test_a_prompt_s_frames_give_the_first_token_without_guesses() -> None:
    # a guess at it would be right for the first text alone
    found = named(traces([dialogue("abXab", "X"), dialogue("abXab", "Q")], 3, ENDS))

    assert set(found.values()) == {0.5}


def test_only_the_first_answer_of_a_conversation_is_sent_for() -> None:
    one, other = (dialogue("abc", "xy"), dialogue("abc", "xy"))
    # what a user says next is in a later prompt
    longer = Document((*other.ids, *map(ord, "defz")), (*other.is_said, False, False, False, True))

    assert set(named(traces([one, longer], 4, ENDS)).values()) == {0.5}


def test_running_text_has_no_answers_to_tell_apart() -> None:
    assert traces([Document((1, 2, 3), (True, True, True))], 4, ENDS) == []


async def test_no_guess_goes_beyond_an_end_token() -> None:
    # behind "ab" stood "X." in the question
    assert await steps(dialogue("abX.qa", "bX."), 4, ENDS) == [Step(1, 1)]
    # with no end there all of it is a guess
    assert await steps(dialogue("abX,qa", "bX."), 4, ENDS) == [Step(4, 1)]


async def test_an_answer_ends_at_its_first_end_token_and_nothing_is_sent_behind_it() -> None:
    assert await steps(dialogue("abc", "xyz.\n"), 4, ENDS) == 3 * [Step(0, 0)]
    assert await steps(dialogue("abc", "."), 4, ENDS) == []


async def test_the_last_token_runs_in_no_frame_whatever_it_is() -> None:
    # all that is left of a text that is cut off is what was guessed
    assert await steps(dialogue("abXYqa", "bXY"), 2, ENDS) == [Step(2, 1)]


def test_without_guesses_there_is_a_frame_for_each_token_but_the_last() -> None:
    # the first has one frame with guesses, which are right up to the end token
    found = named(traces([dialogue("abX.qa", "bX."), dialogue("cdY.qe", "fYg")], 4, ENDS))

    assert found[Frames.PLAIN, Observer.NETWORK] == 0.5
    assert found[Frames.PADDED, Observer.NETWORK] == 1
