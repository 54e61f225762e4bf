import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


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
