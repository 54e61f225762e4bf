import pytest

from splitlearn_client.api.response_store import ResponseStore, StoredResponse

SIZE = StoredResponse(b"x" * 500, b"y" * 500).n_bytes


def response(n: int = 1000) -> StoredResponse:
    return StoredResponse(b"x" * (n // 2), b"y" * (n - n // 2))


def test_a_response_is_found_by_its_tenant_and_by_nobody_else() -> None:
    store = ResponseStore(10 * SIZE)
    stored = response()
    assert store.add("alice", "resp_1", stored)
    assert store.get("alice", "resp_1") is stored
    assert store.get("bob", "resp_1") is None
    assert store.get("", "resp_1") is None
    assert not store.remove("bob", "resp_1")
    assert store.get("alice", "resp_1") is stored


def test_the_oldest_makes_room_and_the_bound_is_never_exceeded() -> None:
    store = ResponseStore(3 * SIZE)
    for number in range(10):
        assert store.add("alice", f"resp_{number}", response())
        assert store.n_bytes <= 3 * SIZE
    assert [store.get("alice", f"resp_{number}") is not None for number in range(10)] == [False] * 7 + [True] * 3


def test_a_tenant_that_keeps_much_displaces_its_own_and_not_those_of_others() -> None:
    store = ResponseStore(4 * SIZE)
    store.add("bob", "resp_bob", response())
    for number in range(20):
        store.add("alice", f"resp_{number}", response())
    assert store.get("bob", "resp_bob") is not None
    assert store.get("alice", "resp_19") is not None


def test_a_tenant_with_less_than_others_always_finds_room() -> None:
    store = ResponseStore(4 * SIZE)
    for number in range(4):
        store.add("alice", f"resp_{number}", response())
    assert store.add("bob", "resp_bob", response())
    assert store.get("bob", "resp_bob") is not None
    assert store.get("alice", "resp_0") is None


def test_what_is_larger_than_the_bound_is_not_kept_and_displaces_nothing() -> None:
    store = ResponseStore(2 * SIZE)
    store.add("alice", "resp_1", response())
    assert not store.add("alice", "resp_2", response(3 * SIZE))
    assert store.get("alice", "resp_1") is not None


def test_a_bound_of_zero_keeps_nothing() -> None:
    store = ResponseStore(0)
    assert not store.add("alice", "resp_1", response(0))
    assert store.n_bytes == 0


def test_what_is_removed_frees_its_memory() -> None:
    store = ResponseStore(2 * SIZE)
    store.add("alice", "resp_1", response())
    assert store.remove("alice", "resp_1")
    assert store.n_bytes == 0
    assert store.get("alice", "resp_1") is None
    assert not store.remove("alice", "resp_1")


@pytest.mark.parametrize("n", [0, 1, 100_000])
def test_the_bytes_of_a_response_and_what_is_around_them_count(n: int) -> None:
    assert response(n).n_bytes == n + 1024
