"""Which codec is chosen by what frames took."""

import pytest

from splitlearn_client.link_speed import FrameTrip, LinkSpeed, WireCodec

ROW = 1000
TOKEN = FrameTrip(1, 2 * ROW, wire_seconds=0.08, compute_seconds=0.02)


def prompt(
    seconds_per_row: float, compute_per_row: float = 0.001, n_rows: int = 100, row_bytes: int = ROW
) -> FrameTrip:
    wire = TOKEN.wire_seconds + seconds_per_row * (n_rows - 1)
    return FrameTrip(n_rows, 2 * n_rows * row_bytes, wire, 0.001 * n_rows)


def link(*trips: FrameTrip) -> LinkSpeed:
    found = LinkSpeed()
    for trip in trips:
        found.learn(trip)
    return found


@pytest.mark.parametrize(("seconds", "codec"), [(0.0, "none"), (0.0009, "none"), (0.0011, "int8"), (1.0, "int8")])
def test_rows_are_rounded_where_they_take_longer_on_the_way_than_in_the_trunk(seconds: float, codec: str) -> None:
    assert link(TOKEN, prompt(seconds)).codec("auto", ROW) == codec


@pytest.mark.parametrize("trips", [(), (TOKEN,), (prompt(1.0),), (TOKEN, prompt(1.0, n_rows=15))])
def test_nothing_is_rounded_before_a_token_and_a_prompt_have_been_measured(trips: tuple[FrameTrip, ...]) -> None:
    assert link(*trips).codec("auto", ROW) == "none"


def test_next_tokens_with_guesses_behind_them_show_the_distance_too() -> None:
    guessed = FrameTrip(8, 2 * 8 * ROW, wire_seconds=0.08, compute_seconds=0.02)
    assert link(guessed, prompt(0.0011)).codec("auto", ROW) == "int8"
    assert link(guessed, prompt(0.0008)).codec("auto", ROW) == "none"


@pytest.mark.parametrize("chosen", ["none", "zlib", "bf16", "fp16", "int8"])
def test_a_codec_that_was_chosen_stays(chosen: WireCodec) -> None:
    for trips in ((), (TOKEN, prompt(1.0))):
        assert link(*trips).codec(chosen, ROW) == chosen


def test_the_distance_is_not_the_link_s_speed() -> None:
    far = TOKEN._replace(wire_seconds=2.0)
    assert link(far, prompt(0.0)._replace(wire_seconds=2.05)).codec("auto", ROW) == "none"


def test_what_was_held_up_once_counts_for_nothing() -> None:
    assert link(TOKEN._replace(wire_seconds=9.0), TOKEN, prompt(1.0), prompt(0.0005)).codec("auto", ROW) == "none"


def test_a_link_that_becomes_faster_or_slower_is_noticed() -> None:
    found = link(TOKEN, prompt(1.0))
    assert found.codec("auto", ROW) == "int8"
    # rounded rows show the bandwidth as well
    for _ in range(8):
        found.learn(prompt(0.0002, row_bytes=ROW // 2))
    assert found.codec("auto", ROW) == "none"
    for _ in range(8):
        found.learn(prompt(0.1))
    assert found.codec("auto", ROW) == "int8"
    assert found.codec_before == "int8"


def test_one_prompt_that_took_long_in_the_trunk_does_not_make_the_trunk_slow() -> None:
    held_up = prompt(0.002)._replace(compute_seconds=9.0)
    assert link(TOKEN, prompt(0.002), held_up, prompt(0.002)).codec("auto", ROW) == "int8"


def pieces(seconds_per_row: float, compute_per_row: float = 0.001, step: float = 0.02, most: int = 512) -> int:
    """Rows at a time over a link that takes so long for a row in each direction."""
    token = TOKEN._replace(compute_seconds=step)
    wire = token.wire_seconds + 2 * seconds_per_row * 99
    return link(token, FrameTrip(100, 200 * ROW, wire, step + 100 * compute_per_row)).rows_at_once(most, ROW)


@pytest.mark.parametrize(
    ("seconds", "n_rows"),
    # the trunk gains 1 ms, 3 ms or 99 ms with each row, and needs 20 ms to begin; pieces take 50 to 500 ms
    [(0.0, 512), (0.0009, 512), (0.00102, 490), (0.002, 30), (0.004, 16), (0.1, 16)],
)
def test_pieces_of_prompts_are_as_short_as_the_trunk_can_take_them_without_falling_behind(
    seconds: float, n_rows: int
) -> None:
    assert pieces(seconds) == n_rows


def test_the_more_a_step_takes_the_longer_the_pieces() -> None:
    found = [pieces(0.002, step=step) for step in (0.0, 0.02, 0.1, 0.4)]
    assert found == pytest.approx([25, 30, 150, 250], abs=1)


def test_pieces_are_no_longer_than_a_step_and_no_shorter_than_worth_a_frame() -> None:
    assert [pieces(0.002, most=most) for most in (4, 20, 512)] == [4, 20, 30]


@pytest.mark.parametrize(("row_bytes", "n_rows"), [(10, 512), (128, 512), (1024, 64), (4096, 16), (1 << 20, 16)])
@pytest.mark.parametrize("trips", [(), (TOKEN,)])
def test_the_first_piece_over_an_unknown_link_is_short(
    trips: tuple[FrameTrip, ...], row_bytes: int, n_rows: int
) -> None:
    found = link(*trips)
    assert (found.rows_at_once(512, row_bytes), found.is_known) == (n_rows, False)
    assert found.rows_at_once(8, row_bytes) == 8


@pytest.mark.parametrize(("wire_seconds", "n_rows"), [(0.0, 512), (0.05, 512), (0.25, 256), (2.56, 25), (50.0, 16)])
def test_before_the_distance_is_known_it_counts_as_time_of_the_rows(wire_seconds: float, n_rows: int) -> None:
    found = link(FrameTrip(64, 2 * 64 * ROW, wire_seconds, compute_seconds=0.02))
    assert (found.rows_at_once(512, ROW), found.is_known) == (n_rows, True)


@pytest.mark.parametrize("wire_seconds", [0.1, 0.8, 3.2])
def test_no_piece_is_long_on_its_way_however_slow_the_trunk_is(wire_seconds: float) -> None:
    """In one direction; the trunk gains nothing over such a link, so that its steps are whole otherwise."""
    token = TOKEN._replace(wire_seconds=0.0)
    n_rows = link(token, FrameTrip(64, 2 * 64 * ROW, wire_seconds, compute_seconds=64.0)).rows_at_once(512, ROW)
    assert n_rows * wire_seconds / 64 / 2 <= 0.5 or n_rows == 16


def test_short_pieces_do_not_make_the_trunk_seem_slow() -> None:
    found = link(TOKEN)
    for _ in range(20):
        n_rows = found.rows_at_once(512, ROW)
        wire = TOKEN.wire_seconds + 2 * 0.002 * (n_rows - 1)
        found.learn(FrameTrip(n_rows, 2 * n_rows * ROW, wire, TOKEN.compute_seconds + 0.001 * n_rows))
    assert n_rows in (30, 31)


def test_prompts_that_share_the_link_have_shorter_pieces() -> None:
    found = link(TOKEN._replace(wire_seconds=0.0), FrameTrip(100, 200 * ROW, 0.396, compute_seconds=100.0))
    assert found.rows_at_once(512, ROW) == 250
    with found.prompt(), found.prompt():
        assert found.rows_at_once(512, ROW) == 125
    assert found.rows_at_once(512, ROW) == 250


def test_a_link_whose_replies_stay_away_is_measured_anew() -> None:
    found = link(TOKEN, prompt(0.0001), prompt(0.0001))
    assert found.rows_at_once(512, 1024) == 512
    found.forget()
    assert (found.rows_at_once(512, 1024), found.is_known) == (64, False)


def test_a_short_piece_does_not_make_the_trunk_seem_slow_for_a_codec() -> None:
    short, long = FrameTrip(16, 32 * ROW, 0.09, 0.03), FrameTrip(512, 1024 * ROW, 0.4, 0.07)
    assert link(TOKEN, short).codec("auto", ROW) == "none"
    assert link(TOKEN, short, long).codec("auto", ROW) == "int8"
