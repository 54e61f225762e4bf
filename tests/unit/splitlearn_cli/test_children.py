import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from splitlearn_cli.children import Child
from splitlearn_cli.errors import ChildFailed

# a service that accepts and never answers keeps `generate` waiting for as long as a test needs it
# nobody is waited for
ASK = ("Hello", "--wait", "0", "--url")


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server


def url(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def asking(server: socket.socket, log: Path) -> Iterator[Child]:
    """A child that is past its start and waits."""
    child = Child("generate", [*ASK, url(server)], log)
    connection, _ = server.accept()
    with connection:
        yield child
    child.wait(60)


def test_a_child_that_fails_gives_its_own_reason(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = url(free)
    child = Child("generate", [*ASK, nobody], tmp_path / "generate.log")
    child.wait(60)

    with pytest.raises(ChildFailed, match=rf"^generate: no client service answers at {nobody} ") as caught:
        child.check()

    assert caught.value.last_lines == ()


def test_a_child_that_was_killed_is_named_with_the_signal_and_the_end_of_its_log(
    tmp_path: Path, silent: socket.socket
) -> None:
    log = tmp_path / "generate.log"
    with asking(silent, log) as child:
        log.write_text(json.dumps({"event": "loaded", "layers": "1-4", "level": "info"}) + "\nplain\n")
        child.wait(0)

        with pytest.raises(ChildFailed, match="the generate was killed by SIGKILL") as caught:
            child.announced()

    assert caught.value.last_lines == ("loaded layers=1-4", "plain")


def test_the_address_is_read_from_the_log_once_its_line_is_whole(tmp_path: Path, silent: socket.socket) -> None:
    log = tmp_path / "generate.log"
    line = json.dumps({"event": "serving", "address": "127.0.0.1:1234"})
    with asking(silent, log) as child:
        log.write_text("not json\n" + json.dumps({"event": "loaded"}) + "\n" + line[:-4])
        assert child.announced() is None

        with log.open("a") as file:
            file.write(line[-4:] + "\n")
        for _ in range(2):
            announced = child.announced()
            assert announced is not None
            assert announced["address"] == "127.0.0.1:1234"


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path, silent: socket.socket) -> None:
    program = (
        "import sys; from pathlib import Path; from splitlearn_cli.children import Child;"
        "Child('generate', ['Hello', '--url', sys.argv[1]], Path(sys.argv[2])); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, url(silent), str(tmp_path / "generate.log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as parent:
        connection, _ = silent.accept()
        parent.kill()

    # the kernel hangs up for a process that has ended; one that lives on would time this out
    with connection:
        connection.settimeout(30)
        while connection.recv(4096):
            pass
