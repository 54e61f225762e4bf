import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from splitlearn_comm.certificates import self_signed
from splitlearn_comm.errors import BadCertificates, BadToken
from splitlearn_trunk.identity import CERTIFICATE_FILE, TOKEN_FILE, Identity, default_directory, identity
from support.tls import NOW


def kept(directory: Path, *, makes_token: bool = True) -> Identity:
    return identity(directory, {}, makes_token=makes_token)


def test_a_restart_finds_the_same_certificate_and_token(tmp_path: Path) -> None:
    first, second = kept(tmp_path / "state"), kept(tmp_path / "state")
    assert first == second
    assert first.token is not None
    assert kept(tmp_path / "other").pair.fingerprint != first.pair.fingerprint


def test_nobody_but_the_owner_reads_what_is_kept(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    kept(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {
        CERTIFICATE_FILE: 0o600,
        TOKEN_FILE: 0o600,
    }


def test_without_need_no_token_is_made(tmp_path: Path) -> None:
    assert kept(tmp_path, makes_token=False).token is None
    assert not (tmp_path / TOKEN_FILE).exists()


def test_workers_that_start_at_the_same_time_agree(tmp_path: Path) -> None:
    for round_ in range(5):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(kept, [tmp_path / str(round_)] * 8))
        assert len({(each.pair.fingerprint, each.token) for each in found}) == 1


def test_what_is_kept_and_cannot_be_used_is_named_with_what_to_do(tmp_path: Path) -> None:
    kept(tmp_path)
    token = (tmp_path / TOKEN_FILE).read_text()
    (tmp_path / TOKEN_FILE).write_text("short")
    with pytest.raises(BadToken, match=r"trunk\.token: .*fewer than 16.*remove it"):
        kept(tmp_path)
    (tmp_path / TOKEN_FILE).write_text(token)
    expired = self_signed(NOW - timedelta(days=2), days=1)
    (tmp_path / CERTIFICATE_FILE).write_bytes(expired.key + expired.certificate)
    with pytest.raises(BadCertificates, match=r"trunk\.pem: .*expired.*remove it"):
        kept(tmp_path)


def test_a_directory_that_was_given_and_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadCertificates, match=r"cannot be kept \(.*file.*--state-dir"):
        kept(tmp_path / "file" / "state")


@pytest.mark.parametrize("environ", [{}, {"HOME": "FILE"}, {"HOME": "relative"}])
def test_without_a_place_to_keep_them_they_are_made_for_this_process_and_that_is_logged(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    (tmp_path / "FILE").touch()
    environ = {name: value.replace("FILE", str(tmp_path / "FILE")) for name, value in environ.items()}
    with capture_logs() as lines:
        first, second = (identity(None, environ, makes_token=True) for _ in range(2))
    assert first.pair.fingerprint != second.pair.fingerprint
    assert first.token != second.token
    assert [("not kept" in line["event"], line["log_level"]) for line in lines] == [(True, "warning")] * 2
    assert first.token is not None
    assert first.token not in str(lines)


def test_the_default_directory_is_that_of_the_xdg_specification(tmp_path: Path) -> None:
    assert default_directory({"HOME": "/home/me"}) == Path("/home/me/.local/state/splitlearn")
    assert default_directory({"HOME": "/home/me", "XDG_STATE_HOME": "/state"}) == Path("/state/splitlearn")
    assert default_directory({"HOME": "/home/me", "XDG_STATE_HOME": "state"}) == Path(
        "/home/me/.local/state/splitlearn"
    )
    found = identity(None, {"XDG_STATE_HOME": str(tmp_path)}, makes_token=True)
    assert (tmp_path / "splitlearn" / TOKEN_FILE).read_text().strip() == found.token


def test_no_secret_is_in_a_log_of_the_object(tmp_path: Path) -> None:
    found = kept(tmp_path)
    assert found.token is not None
    assert found.token not in repr(found)
    assert "PRIVATE KEY" not in repr(found)
