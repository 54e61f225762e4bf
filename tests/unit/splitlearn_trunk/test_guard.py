"""What a worker asks for and says, by its settings. Nothing listens here."""

import re
from pathlib import Path
from typing import Any

import pytest

from splitlearn_comm.errors import BadCertificates, BadToken
from splitlearn_comm.pinned_address import PinnedAddress
from splitlearn_trunk.guard import Guard, guarded
from splitlearn_trunk.settings import TrunkSettings

TOKEN = "a-token-of-the-operator"


def guard(folder: Path, host: str = "0.0.0.0", **settings: Any) -> Guard:
    return guarded(TrunkSettings(weights=folder, host=host, state_dir=folder / "state", **settings))


def test_a_public_worker_prints_all_that_a_client_needs_and_the_same_after_a_restart(tmp_path: Path) -> None:
    found = guard(tmp_path)
    line = PinnedAddress.parse(f"worker:50051{found.suffix}")
    assert found.tokens is not None
    assert found.tokens.name_of(line.token) == "default"
    assert "secret" in str(found.note)
    assert guard(tmp_path).suffix == found.suffix
    assert line.token not in repr(found)


def test_a_token_that_was_given_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"web {TOKEN}")
    for settings in ({"token": TOKEN}, {"token_file": tmp_path / "tokens"}):
        found = guard(tmp_path, **settings)
        assert re.fullmatch(r"#TOKEN\.[0-9a-f]{64}", found.suffix)
        assert "in the place of TOKEN" in str(found.note)
        assert found.tokens is not None
        assert found.tokens.name_of(TOKEN) is not None
    assert not (tmp_path / "state" / "trunk.token").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"])
def test_on_loopback_nothing_is_made(tmp_path: Path, host: str) -> None:
    assert guard(tmp_path, host) == Guard()
    assert not (tmp_path / "state").exists()
    with_token = guard(tmp_path, host, token=TOKEN)
    assert (with_token.credentials, with_token.suffix) == (None, "")
    assert with_token.tokens is not None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
def test_insecure_makes_nothing_and_warns(tmp_path: Path, host: str) -> None:
    found = guard(tmp_path, host, insecure=True)
    assert (found.credentials, found.tokens, found.suffix) == (None, None, "")
    assert "no encryption" in str(found.warning)
    assert not (tmp_path / "state").exists()


def test_what_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadCertificates, match="a server needs a certificate"):
        guard(tmp_path, tls_ca=tmp_path / "ca.crt")
    with pytest.raises(BadToken, match="nothing"):
        guard(tmp_path, token_file=tmp_path / "nothing")
