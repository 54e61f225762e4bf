import time

import pytest

from splitlearn.kv.prefixes import KeptPrefixes

A, B, C, D, X = (name.encode() for name in "abcdx")


def kept(*beginnings: list[bytes], most: int = 8) -> KeptPrefixes:
    """Owners are -1, -2 and so on."""
    prefixes = KeptPrefixes(most)
    for i, names in enumerate(beginnings):
        prefixes.keep(-1 - i, names)
    return prefixes


def test_the_longest_common_beginning_is_found() -> None:
    prefixes = kept([A, B, C], [A, D])
    assert prefixes.find([A, B, C, X]) == (-1, 3)
    assert prefixes.find([A, B, X]) == (-1, 2)
    assert prefixes.find([A, D]) == (-2, 2)
    assert prefixes.find([X]) is None
    assert prefixes.find([]) is None


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([X, B], None),  # the name of a second block, but after another first one
        ([B], None),
        ([X, X, X, A], None),
        ([A, B, B], (-1, 2)),
        ([A, A, B], (-1, 1)),
        ([A, X, C], (-1, 1)),
        ([B, A], None),
    ],
)
def test_made_up_names_find_no_more_than_was_kept_under_all_of_them(
    names: list[bytes], found: tuple[int, int] | None
) -> None:
    prefixes = kept([A, B, C])
    assert prefixes.find(names) == found
    assert not prefixes.has(names)


def test_one_block_under_a_name_that_others_have_second_is_one_block() -> None:
    assert kept([B]).find([A, B]) is None
    assert kept([B, B]).find([B, B, B]) == (-1, 2)


def test_what_a_new_one_continues_need_not_be_kept() -> None:
    prefixes = kept([A, B], [A, D])
    assert prefixes.keep(-3, [A, B, C]) == [-1]
    assert len(prefixes) == 2


def test_made_up_names_drop_nothing_of_others() -> None:
    prefixes = kept([A, B])
    assert prefixes.keep(-2, [X, B]) == []
    assert prefixes.keep(-3, [B, A]) == []
    assert len(prefixes) == 3


def test_the_least_recently_used_goes_first() -> None:
    prefixes = kept([A], [B], most=2)
    prefixes.find([A])
    assert prefixes.keep(-3, [C]) == [-2]
    assert prefixes.find([B]) is None


def test_as_many_names_as_somebody_likes_are_looked_up_at_once() -> None:
    names = [i.to_bytes(4, "big") for i in range(50_000)]
    prefixes = kept(names)
    began = time.perf_counter()
    assert prefixes.find([X, *names[1:]]) is None
    assert prefixes.find(names) == (-1, 50_000)
    assert time.perf_counter() - began < 5
