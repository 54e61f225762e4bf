from typing import Any

import pytest

from splitlearn_comm.errors import BadToken
from splitlearn_trunk.protection import Encryption, Protection, protection

NOTHING: dict[str, Any] = {
    "is_public": False,
    "has_certificate": False,
    "checks_clients": False,
    "has_token": False,
    "is_insecure": False,
}
PUBLIC = {**NOTHING, "is_public": True}


def test_on_loopback_nothing_is_encrypted_unless_a_certificate_is_given() -> None:
    assert protection(**NOTHING) == Protection(Encryption.NONE)
    assert protection(**{**NOTHING, "has_token": True}) == Protection(Encryption.NONE)
    assert protection(**{**NOTHING, "has_certificate": True}) == Protection(Encryption.GIVEN)


def test_a_public_port_without_anything_gets_a_certificate_and_a_token() -> None:
    assert protection(**PUBLIC) == Protection(Encryption.OWN, makes_token=True)


def test_a_public_port_with_a_token_gets_a_certificate() -> None:
    assert protection(**{**PUBLIC, "has_token": True}) == Protection(Encryption.OWN)


def test_a_public_port_is_open_only_where_that_is_said_and_the_operator_is_told_what_that_means() -> None:
    found = protection(**{**PUBLIC, "is_insecure": True})
    assert (found.encryption, found.makes_token) == (Encryption.NONE, False)
    assert "no encryption" in str(found.warning)
    assert "no token" in str(found.warning)
    with_token = protection(**{**PUBLIC, "is_insecure": True, "has_token": True})
    assert "no encryption" in str(with_token.warning)
    assert "no token" not in str(with_token.warning)


@pytest.mark.parametrize("asked", ["checks_clients", "has_token"])
def test_a_certificate_that_was_given_is_used_where_clients_are_asked_for_something(asked: str) -> None:
    assert protection(**{**PUBLIC, "has_certificate": True, asked: True}) == Protection(Encryption.GIVEN)


def test_a_certificate_alone_keeps_nobody_out() -> None:
    with pytest.raises(BadToken, match=r"everybody on the network could use this worker.*--insecure"):
        protection(**{**PUBLIC, "has_certificate": True})
    allowed = protection(**{**PUBLIC, "has_certificate": True, "is_insecure": True})
    assert allowed.encryption is Encryption.GIVEN
    assert "no token" in str(allowed.warning)
