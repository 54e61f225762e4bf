from client_service.block_names import NAME_BYTES, BlockNames
from splitlearn_comm import MOST_NAMES, SessionOpening, wire

KEY = bytes(range(32))
NAMES = BlockNames(4, KEY)


def test_only_whole_blocks_have_names() -> None:
    assert [len(NAMES.of(range(n))) for n in (0, 3, 4, 7, 8, 9)] == [0, 0, 1, 1, 2, 2]
    assert {len(name) for name in NAMES.of(range(12))} == {NAME_BYTES}


def test_the_names_of_any_text_fit_in_one_message() -> None:
    names = BlockNames(1, KEY).of(range(MOST_NAMES + 5))
    assert names == BlockNames(1, KEY).of(range(MOST_NAMES))
    opening = SessionOpening(
        "s" * wire.LONGEST_SESSION_ID, "f" * wire.LONGEST_FINGERPRINT, 2 * MOST_NAMES, "none", names
    )
    assert wire.read_opening(wire.parse_request(wire.encode_request(opening, None))) == opening


def test_texts_that_begin_alike_share_the_names_of_what_is_alike() -> None:
    one, other = NAMES.of([1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9]), NAMES.of([1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0])
    assert one[:2] == other[:2]
    assert one[2] != other[2]


def test_a_block_has_another_name_behind_another_beginning() -> None:
    one, other = NAMES.of([1, 1, 1, 1, 5, 6, 7, 8]), NAMES.of([2, 2, 2, 2, 5, 6, 7, 8])
    assert one[1] != other[1]
    assert one[1] not in NAMES.of([5, 6, 7, 8])


def test_another_key_gives_other_names() -> None:
    names = {BlockNames(4, key).of(range(4)) for key in (KEY, KEY[::-1], None)}
    assert len(names) == 3


def test_large_ids_are_told_from_small_ones() -> None:
    assert NAMES.of([0, 0, 0, 1]) != NAMES.of([0, 0, 0, 257])
