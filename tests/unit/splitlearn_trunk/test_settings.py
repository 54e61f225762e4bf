from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from splitlearn_trunk.settings import TrunkSettings


def test_every_setting_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITLEARN_TRUNK_WEIGHTS", "/weights")
    monkeypatch.setenv("SPLITLEARN_TRUNK_LAYERS", "2-22")
    monkeypatch.setenv("SPLITLEARN_TRUNK_PORT", "7000")
    monkeypatch.setenv("SPLITLEARN_TRUNK_CACHE_DIR", "/cache")
    settings = TrunkSettings()
    assert (settings.weights, settings.layers, settings.port) == (Path("/weights"), "2-22", 7000)
    assert settings.cache_dir == Path("/cache")


def test_a_models_name_stays_as_it_is_given() -> None:
    assert str(TrunkSettings(weights=Path("org/name@refs/pr/1")).weights) == "org/name@refs/pr/1"


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    assert TrunkSettings(weights=Path("w")).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "value"), [("port", 70000), ("threads", 0), ("shutdown_timeout", -1), ("colour", "red")]
)
def test_a_bad_value_is_refused_at_the_start(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        TrunkSettings(weights=Path("w"), **{name: value})


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ({"port": 7000, "metrics_port": 7000}, "--port and --metrics-port are both 7000; give each a port of its own"),
        ({"port": 7000, "health_port": 7000}, "--port and --health-port are both 7000"),
        ({"metrics_port": 7000, "health_port": 7000}, "--metrics-port and --health-port are both 7000"),
        ({"engine": "vllm", "quantization": "int8"}, "--quantization is for --engine native alone"),
        ({"engine": "vllm", "kv_cache_dtype": "int8"}, "--kv-cache-dtype is for --engine native alone"),
        ({"engine": "vllm", "threads": 2}, "--threads is for --engine native alone"),
        ({"tensor_parallel": 2}, "--tensor-parallel is for --engine vllm alone"),
        ({"port": 9101}, "--port and --metrics-port are both 9101"),
    ],
)
def test_a_port_that_is_given_twice_is_said_to_be_this_process_s_own(ports: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrunkSettings(weights=Path("w"), **ports)


def test_several_ports_may_be_any_free_one() -> None:
    assert TrunkSettings(weights=Path("w"), port=0, metrics_port=0, health_port=0).health_port == 0


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrunkSettings(weights=Path("w")).port = 1  # type: ignore[misc]


def test_tokens_are_in_no_error_and_no_log() -> None:
    secret: dict[str, Any] = {"next": "one:1#s3cret.0", "next_token": "s3cret", "token": "s3cret"}
    assert "s3cret" not in repr(TrunkSettings(weights=Path("w"), **secret))
    with pytest.raises(ValidationError) as refused:
        TrunkSettings(weights=Path("w"), **secret, port="s3cret")
    assert "s3cret" not in str(refused.value)
