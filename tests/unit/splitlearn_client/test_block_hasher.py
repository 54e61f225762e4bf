from splitlearn_client.block_hasher import HASH_BYTES, BlockHasher
from splitlearn_comm import MAX_BLOCK_HASHES, SessionOpening, wire

KEY = bytes(range(32))
HASHER = BlockHasher(4, KEY)


def test_only_full_blocks_have_hashes() -> None:
    assert [len(HASHER.hashes(range(n))) for n in (0, 3, 4, 7, 8, 9)] == [0, 0, 1, 1, 2, 2]
    assert {len(each) for each in HASHER.hashes(range(12))} == {HASH_BYTES}


def test_the_hashes_of_any_text_fit_in_one_message() -> None:
    hashes = BlockHasher(1, KEY).hashes(range(MAX_BLOCK_HASHES + 5))
    assert hashes == BlockHasher(1, KEY).hashes(range(MAX_BLOCK_HASHES))
    opening = SessionOpening(
        "s" * wire.LONGEST_SESSION_ID,
        "f" * wire.LONGEST_FINGERPRINT,
        2 * MAX_BLOCK_HASHES,
        "none",
        hashes,
        tenant="t" * wire.LONGEST_OWNER_ID,
        passed_on_for="p" * wire.LONGEST_OWNER_ID,
    )
    assert wire.read_opening(wire.parse_request(wire.encode_request(opening, None))) == opening


def test_texts_share_the_hashes_of_the_blocks_they_begin_with() -> None:
    one, other = (
        HASHER.hashes([1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9]),
        HASHER.hashes([1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]),
    )
    assert one[:2] == other[:2]
    assert one[2] != other[2]


def test_a_block_has_another_hash_behind_another_beginning() -> None:
    one, other = HASHER.hashes([1, 1, 1, 1, 5, 6, 7, 8]), HASHER.hashes([2, 2, 2, 2, 5, 6, 7, 8])
    assert one[1] != other[1]
    assert one[1] not in HASHER.hashes([5, 6, 7, 8])


def test_another_key_gives_other_hashes() -> None:
    found = {BlockHasher(4, key).hashes(range(4)) for key in (KEY, KEY[::-1], None)}
    assert len(found) == 3


def test_large_ids_have_other_hashes_than_small_ones() -> None:
    assert HASHER.hashes([0, 0, 0, 1]) != HASHER.hashes([0, 0, 0, 257])


def test_tenants_share_no_hashes() -> None:
    found = {HASHER.hashes(range(4), tenant) for tenant in ("", "alice", "bob")}
    assert len(found) == 3
    assert HASHER.hashes(range(4), "alice") in found


def test_salts_share_no_hashes_with_each_other_nor_with_tenants_of_their_name() -> None:
    whose = [("", ""), ("", "a"), ("", "b"), ("a", ""), ("b", ""), ("a", "b"), ("b", "a"), ("ab", "")]
    found = {HASHER.hashes(range(4), tenant, salt) for tenant, salt in whose}
    assert len(found) == len(whose)
    assert HASHER.hashes(range(4), "a", "b") in found


def test_rows_that_a_codec_rounded_are_not_taken_for_others() -> None:
    found = {HASHER.hashes(range(4), "a", "", codec) for codec in ("none", "int8")}
    assert len(found) == 2
    assert HASHER.hashes(range(4), "a") in found
