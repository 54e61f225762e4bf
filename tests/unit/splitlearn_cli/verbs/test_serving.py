"""`trunk` as a process of its own: its log line, its errors, its end. `client` runs in tests/integration."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splitlearn_cli.terminal import bytes_bar
from support.shadows import exported, random_shadow

Run = Callable[..., Any]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_trunk_logs_its_address_and_stops_cleanly(tiny_weights: Path, number: signal.Signals) -> None:
    words = ["trunk", str(tiny_weights), "--port", "0", "--metrics-port", "0", "--threads", "1"]
    with subprocess.Popen([sys.executable, "-m", "splitlearn_cli", *words], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        lines = map(json.loads, process.stderr)
        serving = next(line for line in lines if line["event"] == "serving")
        host, _, port = serving["address"].partition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0

        process.send_signal(number)
        assert [line["event"] for line in lines][-1] == "stopped"

    assert process.returncode == 0


def test_layers_that_the_model_lacks_are_one_line(splitlearn: Run, tiny_weights: Path) -> None:
    ran = splitlearn("trunk", tiny_weights, "--layers", "3-99", "--port", 0, "--metrics-port", 0)

    assert ran.code == 1
    assert "3-99" in ran.err
    assert ran.err.count("\n") == 1


def test_a_shadow_with_damaged_weights_is_one_line(splitlearn: Run, tiny_weights: Path, tmp_path: Path) -> None:
    folder = exported(random_shadow(), tmp_path / "shadow", tiny_weights)
    (folder / "model.safetensors").write_bytes(b"no weights")
    guessing = ["--speculative-method", "shadow", "--speculative-model", folder]
    ran = splitlearn("client", tiny_weights, "--port", 0, *guessing)

    (complaint,) = [line for line in ran.err.splitlines() if not line.startswith("{")]
    assert ran.code == 1
    assert "model.safetensors cannot be read" in complaint
    assert "a bug" not in complaint


@pytest.mark.parametrize(
    ("verb", "flag", "others"),
    [
        ("trunk", "--metrics-port", ("--port", 0)),
        ("trunk", "--port", ("--metrics-port", 0)),
        ("client", "--port", ()),
    ],
)
def test_a_busy_port_is_one_line_with_the_address(
    splitlearn: Run, tiny_weights: Path, verb: str, flag: str, others: tuple[Any, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = splitlearn(verb, tiny_weights, flag, port, *others)

    (complaint,) = [line for line in ran.err.splitlines() if not line.startswith("{")]
    assert ran.code == 1
    assert f"127.0.0.1:{port}" in complaint
    assert "choose another" in complaint


@pytest.mark.parametrize(("verb", "module"), [("trunk", "splitlearn_trunk.app"), ("client", "splitlearn_client.app")])
def test_a_service_shows_on_the_terminal_what_it_fetches(
    splitlearn: Run, monkeypatch: pytest.MonkeyPatch, verb: str, module: str
) -> None:
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(f"{module}.run", lambda *arguments: given.append(arguments))

    assert splitlearn(verb, "org/tiny@v1", "--cache-dir", "cache").code == 0

    ((settings, bar),) = given
    assert (str(settings.weights), settings.cache_dir) == ("org/tiny@v1", Path("cache"))
    assert bar is bytes_bar
