import socket
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from splitlearn_cli.errors import ChildFailed
from splitlearn_cli.verbs.up import (
    _KEY_VARIABLE,
    _LINK_VARIABLES,
    _await_ready,
    _client_arguments,
    _client_environment,
    _environment,
    _trunk_arguments,
    _watch,
)
from splitlearn_cli.verbs.up import Settings as UpSettings
from splitlearn_client.settings import ClientSettings
from splitlearn_trunk.settings import TrunkSettings

Run = Callable[..., Any]


class Serving:
    """A child that has come up."""

    def __init__(self, url: str) -> None:
        self._url = url

    def announced(self) -> dict[str, str]:
        return {"address": self._url.removeprefix("http://"), "page": f"{self._url}/"}

    def check(self) -> None:
        pass


def test_both_services_get_what_is_set_for_both() -> None:
    given = UpSettings(weights=Path("weights"), quantization="int4", kv_cache_dtype="int8")
    for arguments in (_trunk_arguments(Path("weights"), given, 1), _client_arguments(Path("weights"), given, 1)):
        flags = dict(pairwise(arguments))
        assert (flags["--quantization"], flags["--kv-cache-dtype"]) == ("int4", "int8")
        assert "--dtype" not in flags


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
    trunk, client = Serving("http://nowhere"), Serving(chat_service.url)
    chat_service.busy, chat_service.passes = 10**6, False
    with pytest.raises(ChildFailed, match=r"^client: no trunk answers$") as caught:
        wait(trunk, client, chat_service.url)
    assert caught.value.last_lines == ()


def test_trouble_that_passes_is_waited_for(chat_service: Any) -> None:
    chat_service.busy, chat_service.passes = 3, True
    trunk, client = Serving("http://nowhere"), Serving(chat_service.url)
    assert _await_ready(trunk, client, 10**6) == chat_service.url  # type: ignore[arg-type]


def ours(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.upper().startswith(("SPLITLEARN", "OTEL"))}


def test_each_service_gets_its_own_settings_alone_and_nothing_that_connects_the_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {"TRUNK": {"SPLITLEARN_TRUNK_THREADS": "2"}, "CLIENT": {"SPLITLEARN_CLIENT_SSL_CERTFILE": "api.crt"}}
    both = {"OTEL_SERVICE_NAME": "demo", "SPLITLEARN_KERNELS": "off"}
    dropped = dict.fromkeys({*_LINK_VARIABLES, "splitlearn_trunk_tls_cert", "SPLITLEARN_DEMO_RAW"}, "1")
    secret = {"SPLITLEARN_UP_API_KEY": "a-key-0123456789"}
    for name, value in {**own["TRUNK"], **own["CLIENT"], **both, **dropped, **secret}.items():
        monkeypatch.setenv(name, value)

    assert ours(_environment("TRUNK")) == {**own["TRUNK"], **both}
    client = _client_environment(UpSettings(weights=Path("w")))
    assert ours(client) == {**own["CLIENT"], **both, _KEY_VARIABLE: "a-key-0123456789"}


def test_every_setting_of_the_connection_is_one_that_the_command_does_not_pass_on() -> None:
    """A new setting whose name says that it is about certificates or tokens must be looked at here."""
    for service, settings in (("TRUNK", TrunkSettings), ("CLIENT", ClientSettings)):
        about = [name for name in settings.model_fields if name.startswith(("tls_", "next")) or "token" in name]
        # how long to wait, and how many tokens there are in a step
        others = ("next_timeout", "max_num_batched_tokens", "num_speculative_tokens")
        about = [name for name in about if name not in others]
        assert {f"SPLITLEARN_{service}_{name.upper()}" for name in about} == {
            name for name in _LINK_VARIABLES if service in name.split("_")[1]
        }
