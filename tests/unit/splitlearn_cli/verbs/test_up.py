import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splitlearn_cli.errors import ChildFailed
from splitlearn_cli.verbs.up import _await_ready, _watch

Run = Callable[..., Any]


class Serving:
    """A child that has come up."""

    def __init__(self, address: str) -> None:
        self._address = address

    def address(self) -> str:
        return self._address

    def check(self) -> None:
        pass


@pytest.mark.parametrize("flag", ["--port", "--trunk-port"])
def test_a_taken_port_is_refused_before_anything_starts(splitlearn: Run, tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        others = ["--port", 0] if flag == "--trunk-port" else []

        ran = splitlearn("up", tmp_path, *others, flag, port, "--log-dir", tmp_path / "logs")

    assert ran.code == 1
    assert str(port) in ran.err
    assert flag in ran.err
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    "wait",
    [
        lambda trunk, client, url: _await_ready(trunk, client, 10**6),
        lambda trunk, client, url: _watch(trunk, client, url),
    ],
    ids=["before it serves", "while it serves"],
)
def test_a_client_that_says_that_it_cannot_serve_ends_everything_at_once(chat_service: Any, wait: Run) -> None:
    trunk, client = Serving("nowhere"), Serving(chat_service.url.removeprefix("http://"))
    chat_service.busy, chat_service.passes = 10**6, False
    with pytest.raises(ChildFailed, match=r"^client: no trunk answers$") as caught:
        wait(trunk, client, chat_service.url)
    assert caught.value.last_lines == ()


def test_trouble_that_passes_is_waited_for(chat_service: Any) -> None:
    chat_service.busy, chat_service.passes = 3, True
    trunk, client = Serving("nowhere"), Serving(chat_service.url.removeprefix("http://"))
    assert _await_ready(trunk, client, 10**6) == chat_service.url  # type: ignore[arg-type]
