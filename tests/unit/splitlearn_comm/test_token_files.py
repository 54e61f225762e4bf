from pathlib import Path

import pytest
from structlog.testing import capture_logs

from splitlearn_comm.errors import BadToken
from splitlearn_comm.token_files import Tokens, given_tokens
from support.tls import replace

OLD, NEW, OWN = "the-old-token-of-all", "the-new-token-of-all", "the-token-of-a-flag"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"web {OLD}\n")
    return file


def test_a_changed_file_is_read_again(file: Path) -> None:
    tokens = Tokens(file=file)
    assert (tokens.first, tokens.name_of(OLD), tokens.name_of(NEW)) == (OLD, "web", None)

    replace(file, f"web {NEW}\nweb {OLD}\n".encode())
    assert (tokens.first, tokens.name_of(OLD), tokens.name_of(NEW)) == (NEW, "web", "web")

    replace(file, f"other {NEW}\n".encode())
    assert (tokens.name_of(OLD), tokens.name_of(NEW), tokens.names) == (None, "other", ["other"])


@pytest.mark.parametrize("damage", [b"", b"web short", b"\xff\xfe" * 9, b"a-token-too-many " * 70_000, None])
def test_a_file_that_cannot_be_used_changes_nothing_and_is_told_once(file: Path, damage: bytes | None) -> None:
    tokens = Tokens(file=file)
    with capture_logs() as lines:
        if damage is None:
            file.unlink()
        else:
            replace(file, damage)
        for _ in range(3):
            assert tokens.name_of(OLD) == "web"
    assert [(line["log_level"], "old content stays" in line["event"]) for line in lines] == [("warning", True)]
    assert str(file) in lines[0]["reason"]

    replace(file, f"web {NEW}".encode())
    assert tokens.first == NEW


def test_a_token_of_its_own_is_taken_beside_those_of_the_file(file: Path) -> None:
    tokens = Tokens(OWN, file)
    assert (tokens.first, tokens.name_of(OWN), tokens.name_of(OLD)) == (OWN, "default", "web")
    replace(file, f"web {NEW}".encode())
    assert (tokens.name_of(OWN), tokens.name_of(OLD), tokens.name_of(NEW)) == ("default", None, "web")


def test_what_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadToken, match=r"cannot read .*nothing: No such file"):
        Tokens(file=tmp_path / "nothing")
    with pytest.raises(BadToken, match="fewer than 16"):
        Tokens("short")
    with pytest.raises(BadToken, match="no token was given"):
        Tokens()


def test_no_setting_means_no_tokens(file: Path) -> None:
    assert given_tokens(None, None) is None
    assert given_tokens(OWN, None) is not None
    assert given_tokens(None, file) is not None


def test_what_is_logged_has_names_and_no_tokens(file: Path) -> None:
    tokens = Tokens(file=file)
    with capture_logs() as lines:
        replace(file, f"web {NEW}\nlab {OLD}\n".encode())
        assert tokens.first == NEW
    assert lines == [{"event": "tokens were read again", "clients": ["web", "lab"], "log_level": "info"}]
