"""Which addresses are the same worker's, so that a worker with several counts as one replica. Plain values."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class Identity:
    """What is known of the worker behind an address.

    Attributes:
        given: the HOST:PORT that the address was resolved from, or the address itself.
        is_ipv6: whether the name has it as an IPv6 address.
        instance: what its server calls itself; empty if it does not say, None if it has never answered.
    """

    given: str
    is_ipv6: bool
    instance: str | None


def by_worker(addresses: Sequence[tuple[_T, Identity]]) -> list[tuple[_T, ...]]:
    """The addresses of each worker, in their order.

    Addresses that have never answered are left out where they may be second addresses. A name with addresses of both
    families names each worker by both, and some workers listen on one of them only. So of such a name the silent
    addresses count in the family in which more have answered, and else in the first.
    """
    n_answered = Counter((each.given, each.is_ipv6) for _, each in addresses if each.instance is not None)
    families: dict[str, list[bool]] = {}
    for _, each in addresses:
        if each.is_ipv6 not in families.setdefault(each.given, []):
            families[each.given].append(each.is_ipv6)
    # max() takes the first of equals
    counted = {given: max(seen, key=lambda family: n_answered[given, family]) for given, seen in families.items()}
    workers: dict[str | int, tuple[_T, ...]] = {}
    for number, (address, each) in enumerate(addresses):
        if each.instance is not None or each.is_ipv6 is counted[each.given]:
            key = each.instance or number
            workers[key] = (*workers.get(key, ()), address)
    return list(workers.values())
