import re
import traceback
from hashlib import sha256
from pathlib import Path

import pytest

from splitlearn_client.errors import BadTenants
from splitlearn_client.tenants import MOST_KEYS, Quota, Tenant, parse_tenants

SECRET = "sk-secret-secret-secret"
HASH = f"sha256:{sha256(SECRET.encode()).hexdigest()}"


def test_a_key_is_found_whether_the_file_has_it_or_its_hash() -> None:
    ring = parse_tenants(f"""
        [alice]
        keys = ["{HASH}", "another-key-of-alice"]
        max_parallel_requests = 2
        rpm_limit = 60
        tpm_limit = 1000

        ["bob@example.com"]
        keys = ["bobs-key-0123456789"]
        metrics = true
    """)
    alice = Tenant("alice", Quota(2, 60, 1000))
    assert ring.find(SECRET) == ring.find("another-key-of-alice") == alice
    assert ring.find("bobs-key-0123456789") == Tenant("bob@example.com", Quota(), may_read_metrics=True)
    assert ring.owners == {alice, ring.find("bobs-key-0123456789")}
    for stranger in ("", "another", "another-key-of-alice ", HASH, "\xff"):
        assert ring.find(stranger) is None


def test_the_key_of_the_settings_is_one_more_and_has_no_name_and_no_limit() -> None:
    ring = parse_tenants('[alice]\nkeys = ["hers-0123456789ab"]', "everybodys-0123456789")
    assert ring.find("everybodys-0123456789") == Tenant("", Quota(), may_read_metrics=True)
    assert ring.find("hers-0123456789ab") == Tenant("alice")
    assert len(parse_tenants("", "everybodys-0123456789")) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no tenant"),
        (f'alice = "{SECRET}"', "alice"),
        (f'[alice]\nkeys = "{SECRET}"', r"alice\.keys"),
        (f'[alice]\nkeys = ["{SECRET}", ""]', r"alice\.keys\.1"),
        (f'[alice]\nkeys = ["{SECRET} {SECRET}"]', r"alice\.keys\.0: a key has at most 512"),
        (
            f'[alice]\nkeys = ["{SECRET}"]\n[bob]\nkeys = ["{SECRET[:15]}"]',
            r"bob\.keys\.0: .* fewer than 16 .*openssl rand",
        ),
        ("[alice]", r"alice\.keys"),
        ("[alice]\nkeys = []", r"alice\.keys"),
        (f'[alice]\nkeys = ["sha256:{SECRET}"]', r"alice\.keys\.0: .*64 hexadecimal digits"),
        (f'[alice]\nkeys = ["{SECRET}"]\nrmp_limit = 3', r"alice\.rmp_limit: there is no such setting"),
        (f'[alice]\nkeys = ["{SECRET}"]\n{SECRET} = 3', r"alice\.\?: there is no such setting"),
        (f'[alice]\nkeys = ["{SECRET}"]\nrpm_limit = 0', r"alice\.rpm_limit"),
        (f'[alice]\nkeys = ["{SECRET}"]\nrpm_limit = "many"', r"alice\.rpm_limit"),
        (f'["{SECRET}!"]\nkeys = ["{HASH}"]', "a tenant's name has 1 to 64"),
        (f'[alice]\nkeys = ["{SECRET}"]\n[bob]\nkeys = ["{HASH}"]', r"bob\.keys\.0 is also a key of alice"),
        (f'[alice]\nkeys = ["{SECRET}"', r"this is no TOML \(at "),
        (f'[alice]\n"{SECRET}" = {{}}\n"{SECRET}" = 1', "this is no TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_without_a_key(text: str, reason: str) -> None:
    with pytest.raises(BadTenants, match=reason) as caught:
        parse_tenants(text)
    # --debug shows it with what led to it
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET[:15] not in told
    assert HASH not in told


def test_the_number_of_keys_is_bounded() -> None:
    keys = ", ".join(f'"key-0123456789-{i}"' for i in range(MOST_KEYS))
    assert len(parse_tenants(f"[alice]\nkeys = [{keys}]")) == MOST_KEYS
    with pytest.raises(BadTenants, match=f"{MOST_KEYS + 1} keys"):
        parse_tenants(f"[alice]\nkeys = [{keys}]", "one-more-0123456789")


def test_the_file_in_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    tenants = parse_tenants(text).owners
    assert Tenant("alice", Quota(4, 60, 20_000)) in tenants
    assert Tenant("bob@example.com", may_read_metrics=True) in tenants
