from cleangpt.inference.windows import GrowingText


def _grown(text: GrowingText) -> list[list[int]]:
    """Fills every window with ids that count on; returns the windows that were read."""
    windows = []
    while text.room:
        windows.append(text.window)
        text.add(range(len(text.ids), len(text.ids) + text.room), ())
    return windows


def test_a_full_window_goes_on_from_the_last_half_of_the_context() -> None:
    text = GrowingText([0, 1, 2], wanted=20, context=8, slides=True)
    assert _grown(text) == [[0, 1, 2], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]
    assert text.ids == list(range(23))
    assert text.has_slid


def test_a_text_that_does_not_slide_ends_with_the_positions() -> None:
    text = GrowingText([0, 1, 2], wanted=20, context=8, slides=False)
    assert _grown(text) == [[0, 1, 2]]
    assert text.ids == list(range(8))
    assert not text.has_slid


def test_a_text_that_ends_where_the_window_is_full_does_not_slide() -> None:
    text = GrowingText([0, 1, 2], wanted=5, context=8, slides=True)
    assert _grown(text) == [[0, 1, 2]]
    assert not text.has_slid


def test_of_a_prompt_that_fills_the_context_the_last_half_is_read() -> None:
    for n_prompt in (8, 11):
        text = GrowingText(list(range(n_prompt)), wanted=1, context=8, slides=True)
        assert text.window == list(range(n_prompt))[-4:]
        assert (text.room, text.has_slid) == (1, True)


def test_without_a_limit_nothing_slides() -> None:
    text = GrowingText([0], wanted=1000, context=None, slides=True)
    assert _grown(text) == [[0]]
    assert (len(text.ids), text.has_slid) == (1001, False)


def test_an_end_ends_a_text_and_what_follows_it_is_dropped() -> None:
    text = GrowingText([0], wanted=10, context=8, slides=True)
    text.add([1, 2], ends=(9,))
    assert text.room == 5
    text.add([3, 9, 0, 0], ends=(9, 3000))
    assert (text.ids, text.room) == ([0, 1, 2, 3, 9], 0)
