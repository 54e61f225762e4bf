import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from splitlearn_client.errors import BadTenants
from splitlearn_client.serving.tenant_directory import TenantDirectory
from splitlearn_comm import file_changes
from support.running_split import until

OLD, NEW = (
    '[alice]\nkeys = ["old-key-0123456789"]',
    '[alice]\nkeys = ["new-key-0123456789"]\n[bob]\nkeys = ["bobs-key-0123456789"]',
)


def write(path: Path, text: str | None) -> None:
    """As a careful program does; its file is another one, whatever the clock's resolution is. None removes it."""
    if text is None:
        path.unlink()
        return
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_changes, "LOOK_SECONDS", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "tenants.toml", OLD)
    return tmp_path / "tenants.toml"


def name(directory: TenantDirectory, key: str | None) -> str | None:
    account = directory.find(key)
    return None if account is None else account.name


def test_without_keys_everybody_is_let_in_as_one() -> None:
    directory = TenantDirectory(None, None)
    assert not directory.needs_key
    assert directory.find(None) is directory.find("anything") is not None
    assert name(directory, None) == ""


def test_with_a_key_nobody_is_let_in_without(path: Path) -> None:
    for directory in (
        TenantDirectory(None, "the-key-0123456789"),
        TenantDirectory(path, "the-key-0123456789"),
        TenantDirectory(path, None),
    ):
        assert directory.needs_key
        assert directory.find(None) is directory.find("") is directory.find("wrong") is None
    assert name(TenantDirectory(path, "the-key-0123456789"), "the-key-0123456789") == ""
    assert name(TenantDirectory(path, "the-key-0123456789"), "old-key-0123456789") == "alice"


def test_a_file_that_cannot_be_used_stops_the_start_and_is_named(path: Path, tmp_path: Path) -> None:
    for content in (b"", b"[alice", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(BadTenants, match=r"--tenants .*tenants.toml: "):
            TenantDirectory(path, None)
    for nothing in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadTenants, match="check path and permissions"):
            TenantDirectory(nothing, None)


async def test_keys_come_and_go_with_the_file_and_accounts_stay(path: Path) -> None:
    directory = TenantDirectory(path, None)
    alice = directory.find("old-key-0123456789")
    watching = asyncio.create_task(directory.watch())
    write(path, NEW)
    await until(lambda: directory.find("bobs-key-0123456789") is not None)
    assert directory.find("old-key-0123456789") is None
    assert directory.find("new-key-0123456789") is alice
    watching.cancel()


async def test_a_broken_new_file_changes_nothing_and_the_log_says_why_once(path: Path) -> None:
    directory = TenantDirectory(path, None)
    with capture_logs() as lines:
        watching = asyncio.create_task(directory.watch())
        for broken in ('[alice]\nkeys = ["secret"]', "[alice", None):
            before = len(lines)
            write(path, broken)
            await until(lambda before=before: len(lines) > before)  # type: ignore[misc]
            assert name(directory, "old-key-0123456789") == "alice"
        write(path, NEW)
        await until(lambda: directory.find("new-key-0123456789") is not None)
        watching.cancel()
    assert [line["log_level"] for line in lines] == ["warning"] * 3 + ["info"]
    assert all("tenants.toml" in line["reason"] for line in lines[:3])
    assert "secret" not in str(lines)
    assert "old-key-0123456789" not in str(lines)
