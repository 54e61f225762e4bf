import time

import pytest

from splitlearn.engine.prefix_index import PrefixIndex

A, B, C, D, X = (name.encode() for name in "abcdx")


def index_of(*prefixes: list[bytes], max_prefixes: int = 8) -> PrefixIndex:
    """Owners are -1, -2 and so on."""
    index = PrefixIndex(max_prefixes)
    for i, hashes in enumerate(prefixes):
        index.insert(-1 - i, hashes)
    return index


def test_the_longest_common_prefix_is_found() -> None:
    index = index_of([A, B, C], [A, D])
    assert index.find([A, B, C, X]) == (-1, 3)
    assert index.find([A, B, X]) == (-1, 2)
    assert index.find([A, D]) == (-2, 2)
    assert index.find([X]) is None
    assert index.find([]) is None


@pytest.mark.parametrize(
    ("hashes", "found"),
    [
        ([X, B], None),  # the hash of a second block, but after another first one
        ([B], None),
        ([X, X, X, A], None),
        ([A, B, B], (-1, 2)),
        ([A, A, B], (-1, 1)),
        ([A, X, C], (-1, 1)),
        ([B, A], None),
    ],
)
def test_forged_hashes_find_no_more_than_is_cached_under_all_of_them(
    hashes: list[bytes], found: tuple[int, int] | None
) -> None:
    index = index_of([A, B, C])
    assert index.find(hashes) == found
    assert not index.contains(hashes)


def test_one_block_under_a_hash_that_others_have_second_is_one_block() -> None:
    assert index_of([B]).find([A, B]) is None
    assert index_of([B, B]).find([B, B, B]) == (-1, 2)


def test_a_new_prefix_evicts_the_one_that_it_continues() -> None:
    index = index_of([A, B], [A, D])
    assert index.insert(-3, [A, B, C]) == [-1]
    assert len(index) == 2


def test_forged_hashes_evict_no_other_prefix() -> None:
    index = index_of([A, B])
    assert index.insert(-2, [X, B]) == []
    assert index.insert(-3, [B, A]) == []
    assert len(index) == 3


def test_the_least_recently_used_prefix_is_evicted_first() -> None:
    index = index_of([A], [B], max_prefixes=2)
    index.find([A])
    assert index.insert(-3, [C]) == [-2]
    assert index.find([B]) is None


def test_very_many_hashes_are_looked_up_quickly() -> None:
    hashes = [i.to_bytes(4, "big") for i in range(50_000)]
    index = index_of(hashes)
    began = time.perf_counter()
    assert index.find([X, *hashes[1:]]) is None
    assert index.find(hashes) == (-1, 50_000)
    assert time.perf_counter() - began < 5
