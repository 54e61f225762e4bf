import pytest

from splitlearn_comm.replicas.workers import Identity, by_worker

NAME = "trunk:1"


def known(*addresses: tuple[str, str | None], given: str = NAME) -> list[tuple[str, Identity]]:
    """Addresses of a name with the instances that answered; those that begin with 6 are of IPv6."""
    return [(address, Identity(given, address.startswith("6"), instance)) for address, instance in addresses]


def test_addresses_with_one_instance_are_one_worker_whatever_names_they_come_from() -> None:
    addresses = [
        *known(("4a", "a"), ("6a", "a"), ("4b", "b"), ("6b", "b")),
        *known(("4a again", "a"), given="alias:1"),
    ]
    assert by_worker(addresses) == [("4a", "6a", "4a again"), ("4b", "6b")]


def test_servers_that_do_not_say_who_they_are_are_taken_for_different_ones() -> None:
    assert by_worker(known(("4a", ""), ("6a", ""))) == [("4a",), ("6a",)]


@pytest.mark.parametrize(
    ("addresses", "counted"),
    [
        # nothing has answered yet: the family that the resolver prefers
        ([("6a", None), ("4a", None)], ["6a"]),
        ([("4a", None), ("6a", None), ("6b", None), ("4b", None)], ["4a", "4b"]),
        # workers that listen on one family only
        ([("6a", None), ("6b", None), ("4a", "a"), ("4b", "b")], ["4a", "4b"]),
        # one of them has never answered
        ([("6a", None), ("6b", None), ("4a", "a"), ("4b", None)], ["4a", "4b"]),
        ([("4a", "a"), ("4b", None), ("6a", "a"), ("6b", None)], ["4a", "4b"]),
        # one worker of each family
        ([("4a", "a"), ("6b", "b")], ["4a", "6b"]),
        # a single family is what it is
        ([("4a", None), ("4b", None)], ["4a", "4b"]),
    ],
)
def test_silent_addresses_count_in_one_family_of_their_name(
    addresses: list[tuple[str, str | None]], counted: list[str]
) -> None:
    assert [worker[0] for worker in by_worker(known(*addresses))] == counted


def test_silent_addresses_that_were_given_one_by_one_all_count() -> None:
    addresses = [*known(("4a", None), given="4a"), *known(("6a", None), given="6a")]
    assert by_worker(addresses) == [("4a",), ("6a",)]
