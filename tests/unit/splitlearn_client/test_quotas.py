import pytest

from splitlearn_client.quotas import CALLER, Account, Accounts, OverQuota, account_of, tenant_of
from splitlearn_client.tenants import Quota, Tenant


def account(**quota: int) -> Account:
    return Account(Tenant("alice", Quota(**quota)))


def refused(found: OverQuota | None) -> float:
    assert found is not None
    return found.retry_after


def test_without_a_quota_everything_goes() -> None:
    free = account()
    for _ in range(10_000):
        assert free.begin(0.0) is None
        free.spend(10**9, 0.0)


def test_as_many_requests_as_allowed_run_at_a_time() -> None:
    it = account(max_parallel_requests=2)
    assert it.begin(0.0) is it.begin(0.0) is None
    assert refused(it.begin(0.0)) > 0
    it.end()
    assert it.begin(0.0) is None
    assert it.begin(0.0) is not None


def test_requests_per_minute_come_back_evenly_and_retry_after_is_when() -> None:
    it = account(rpm_limit=6)
    assert [it.begin(100.0) for _ in range(6)] == [None] * 6
    seconds = refused(it.begin(100.0))
    assert seconds == pytest.approx(10.0)
    assert it.begin(100.0 + seconds - 0.1) is not None
    assert it.begin(100.0 + seconds + 0.001) is None
    # an idle hour saves up one minute and no more
    assert [it.begin(4000.0) for _ in range(7)][5:] == [None, it.begin(4000.0)]


def test_a_refused_request_uses_nothing_up() -> None:
    it = account(max_parallel_requests=1, rpm_limit=2)
    assert it.begin(0.0) is None
    assert [it.begin(0.0) is None for _ in range(5)] == [False] * 5
    it.end()
    assert it.begin(0.0) is None


def test_tokens_may_be_overdrawn_by_a_running_request_and_are_paid_off_before_the_next() -> None:
    it = account(tpm_limit=60)
    assert it.begin(0.0) is None
    it.spend(100, 0.0)
    seconds = refused(it.begin(0.0))
    assert seconds == pytest.approx(41.0)
    assert it.begin(seconds - 1.5) is not None
    assert it.begin(seconds + 0.001) is None


def test_a_quota_that_changes_keeps_what_was_used() -> None:
    accounts = Accounts()
    accounts.replace([Tenant("alice", Quota(rpm_limit=2)), Tenant("bob", Quota(rpm_limit=2))])
    alice = accounts.of(Tenant("alice"))
    assert alice.begin(0.0) is alice.begin(0.0) is None
    accounts.replace([Tenant("alice", Quota(rpm_limit=3, max_parallel_requests=2))])
    assert accounts.of(Tenant("alice")) is alice
    alice.end()
    # two of three are used, and the greater limit fills up from now on
    assert refused(alice.begin(0.0)) > 0
    assert alice.begin(60.0) is None
    accounts.replace([Tenant("alice")])
    assert [alice.begin(60.0) for _ in range(50)] == [None] * 50


def test_a_tenant_that_is_gone_ends_its_requests_and_comes_back_new() -> None:
    accounts = Accounts()
    accounts.replace([Tenant("alice", Quota(max_parallel_requests=1))])
    alice = accounts.of(Tenant("alice"))
    assert alice.begin(0.0) is None
    accounts.replace([])
    with pytest.raises(KeyError):
        accounts.of(Tenant("alice"))
    alice.end()
    assert alice.n_running == 0


def test_a_request_that_nobody_looked_at_is_nobodys() -> None:
    assert tenant_of({"type": "http"}) == ""
    assert account_of({"type": "http"}).begin(0.0) is None
    alice = account()
    assert account_of({CALLER: alice}) is alice
