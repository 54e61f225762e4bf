from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import SecretStr, ValidationError

from splitlearn_client.settings import ClientSettings, parse_hosts, parse_methods, parse_origins
from splitlearn_comm.core import CODECS


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ClientSettings.model_fields:
        monkeypatch.delenv(f"SPLITLEARN_CLIENT_{name.upper()}", raising=False)


VALUES: dict[str, Any] = {
    "weights": Path("w"),
    "cache_dir": Path("cache"),
    "trunk": "trunk:1",
    "trunk_token": SecretStr("secret"),
    "trunk_token_file": Path("token"),
    "trunk_insecure": True,
    "layers": "2-22",
    "host": "0.0.0.0",
    "port": 81,
    "ssl_certfile": Path("api.crt"),
    "ssl_keyfile": Path("api.key"),
    "allowed_origins": "http://localhost:3000,https://chat.example.org",
    "served_model_name": "m",
    "generation_config": "vllm",
    "chat_template_content_format": "openai",
    "tool_call_parser": "mistral",
    "reasoning_parser": "think",
    "pooling": "mean",
    "device": "cpu",
    "dtype": "bfloat16",
    "threads": 3,
    "wire_codec": "int8",
    "quantization": "int8",
    "screen_head": False,
    "kv_cache_dtype": "int8",
    "speculative_method": "ngram,draft_model",
    "speculative_model": Path("small"),
    "num_speculative_tokens": 3,
    "speculative_rounding": True,
    "pad_frames": True,
    "frame_interval": 0.25,
    "kv_cache_memory_bytes": 2**30,
    "max_waiting": 9,
    "max_num_batched_tokens": 64,
    "enable_prefix_caching": False,
    "trunk_timeout": 7.5,
    "failover_timeout": 8.5,
    "tls_ca": Path("ca.crt"),
    "tls_cert": Path("client.crt"),
    "tls_key": Path("client.key"),
    "queue_timeout": 6.5,
    "verify": "always",
    "allowed_hosts": "llm.example.com,*.lan",
    "api_key": SecretStr("s3cret-0123456789"),
    "tenants": Path("tenants.toml"),
    "protect_metrics": True,
    "max_body": 2**20,
    "response_store_bytes": 2**21,
    "max_connections": 12,
    "header_timeout": 1.5,
    "body_timeout": 2.5,
    "send_timeout": 3.5,
    "timeout_keep_alive": 4.5,
    "otlp_traces_endpoint": "http://collector:4318/v1/traces",
    "shutdown_timeout": 0.5,
}
"""One of each setting, and none of them the default."""


def test_only_the_weights_have_to_be_given() -> None:
    settings = ClientSettings(weights=Path("w"))
    assert (settings.trunk, settings.host, settings.port) == ("127.0.0.1:50051", "127.0.0.1", 8000)
    assert (settings.layers, settings.dtype, settings.served_model_name, settings.threads) == (None, None, None, None)
    with pytest.raises(ValidationError, match="weights"):
        ClientSettings()  # type: ignore[call-arg]


def test_frames_are_padded_only_where_there_are_guesses() -> None:
    with pytest.raises(ValidationError, match="--pad-frames needs a --speculative-method"):
        ClientSettings(weights=Path("w"), pad_frames=True)
    assert ClientSettings(weights=Path("w"), pad_frames=True, speculative_method="ngram").pad_frames


def test_every_setting_has_a_twin_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(VALUES) == set(ClientSettings.model_fields)
    for name, value in VALUES.items():
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        monkeypatch.setenv(f"SPLITLEARN_CLIENT_{name.upper()}", text)
    assert ClientSettings().model_dump() == VALUES  # type: ignore[call-arg]


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITLEARN_CLIENT_PORT", "81")
    assert ClientSettings(weights=Path("w"), port=82).port == 82


@pytest.mark.parametrize("method", ["draft_model", "shadow", "ngram,draft_model", "shadow, ngram"])
def test_what_guesses_by_a_model_and_the_model_need_each_other(method: str) -> None:
    assert ClientSettings(weights=Path("w"), speculative_method=method, speculative_model=Path("small"))
    for given in ({"speculative_method": method}, {"speculative_model": Path("small")}):
        with pytest.raises(ValidationError, match="need each other"):
            ClientSettings(weights=Path("w"), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "methods"),
    [
        ("none", ()),
        ("ngram", ("ngram",)),
        ("shadow", ("shadow",)),
        ("ngram,draft_model", ("ngram", "draft_model")),
        (" shadow , ngram ", ("shadow", "ngram")),
    ],
)
def test_ways_to_guess_are_names_with_commas_between_them(text: str, methods: tuple[str, ...]) -> None:
    assert parse_methods(text) == methods


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "found ''"),
        ("ngram,", "found ''"),
        ("eagle", "expected none alone, or some of ngram, draft_model, shadow, found 'eagle'"),
        ("none,ngram", "expected none alone, .* found 'none'"),
        ("ngram,ngram", "each method once"),
        ("draft_model,shadow", "draft_model and shadow would need a --speculative-model each"),
        ("ngram,shadow,draft_model", "choose one of them"),
    ],
)
def test_ways_to_guess_that_do_not_go_together_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        ClientSettings(weights=Path("w"), speculative_method=text, speculative_model=Path("small"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 65536),
        ("port", -1),
        ("trunk", "trunk:65536"),
        ("trunk", "trunk:0"),
        ("trunk", "trunk:5005100000000000000000"),
        ("trunk", "trunk"),
        ("trunk", ":50051"),
        ("trunk", "::1:50051"),
        ("trunk", "trunk:1#"),
        ("trunk", "trunk:1#token"),
        ("trunk", f"trunk:1#.{'0' * 64}"),
        ("trunk", f"trunk:1#token.{'0' * 63}"),
        ("trunk", f"trunk#token.{'0' * 64}"),
        ("port", "http"),
        ("threads", 0),
        ("trunk_timeout", 0),
        ("shutdown_timeout", -1),
        ("queue_timeout", 0),
        ("max_body", 0),
        ("max_body", "much"),
        ("response_store_bytes", -1),
        ("max_connections", 1),
        ("header_timeout", 0),
        ("timeout_keep_alive", -1),
        ("flavour", "sweet"),
        ("wire_codec", "lz4"),
        ("pooling", "average"),
        ("api_key", ""),
        ("api_key", "two words"),
        ("api_key", "k" * 513),
        ("api_key", "kl\u00fcssel"),
        ("allowed_hosts", "llm.example.com:8000"),
        ("allowed_hosts", "http://llm.example.com"),
        ("allowed_hosts", "one two"),
        ("allowed_hosts", "lan,*lan"),
        ("allowed_hosts", "b\u00fccher.example"),
        ("allowed_origins", "localhost:3000"),
        ("allowed_origins", "http://localhost:3000/"),
        ("allowed_origins", "http://Localhost"),
        ("allowed_origins", "http://one,two"),
    ],
)
def test_a_bad_value_stops_the_start_and_names_the_setting(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        ClientSettings(weights=Path("w"), **{name: value})  # type: ignore[arg-type]


def test_metrics_that_nobody_could_read_are_refused() -> None:
    with pytest.raises(ValidationError, match="--protect-metrics needs --api-key or --tenants"):
        ClientSettings(weights=Path("w"), protect_metrics=True)
    assert ClientSettings(weights=Path("w"), protect_metrics=True, tenants=Path("t")).protect_metrics


GOOD_KEY = "s3cret-0123456789"


@pytest.mark.parametrize("bad", ["s3cret", GOOD_KEY[:15], ""])
def test_a_key_that_could_be_guessed_is_refused_with_a_way_to_make_one(bad: str) -> None:
    with pytest.raises(
        ValidationError, match=r"api_key\n.*fewer than 16 characters .*`openssl rand -hex 32`"
    ) as caught:
        ClientSettings(weights=Path("w"), api_key=bad)  # type: ignore[arg-type]
    assert "s3cret" not in str(caught.value)
    assert ClientSettings(weights=Path("w"), api_key=GOOD_KEY[:16]).api_key  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"api_key": f"{GOOD_KEY} "}, {"port": "http"}, {"weights": None}, {"flavour": "sweet"}]
)
def test_no_error_and_no_text_of_the_settings_shows_the_api_key(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ClientSettings(**{"weights": Path("w"), "api_key": GOOD_KEY, **wrong})
    assert "s3cret" not in str(caught.value)
    settings = ClientSettings(weights=Path("w"), api_key=GOOD_KEY)  # type: ignore[arg-type]
    assert "s3cret" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_the_codecs_to_choose_from_are_those_of_the_wire() -> None:
    assert get_args(ClientSettings.model_fields["wire_codec"].annotation) == (*CODECS, "auto")


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        ("http://[::1]:8080", ("http://[::1]:8080",)),
        ("http://localhost:3000, https://chat.example.org,", ("http://localhost:3000", "https://chat.example.org")),
    ],
)
def test_origins_are_listed_as_browsers_send_them(text: str, origins: tuple[str, ...]) -> None:
    assert parse_origins(text) == origins


def test_settings_do_not_change_after_the_start() -> None:
    settings = ClientSettings(weights=Path("w"))
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in ClientSettings.model_fields.values())


@pytest.mark.parametrize(
    "address",
    [
        "trunk:1",
        "[::1]:50051",
        "127.0.0.1:65535",
        "unix:/run/trunk",
        "dns:///trunk:50051",
        f"one:1#token-_~+/.more==.{'0aF' * 21}b, two:2",
    ],
)
def test_a_trunk_s_address_is_a_host_and_a_port(address: str) -> None:
    assert ClientSettings(weights=Path("w"), trunk=address).trunk == address


@pytest.mark.parametrize("address", ["http://127.0.0.1:50051", "trunk:50051/", "one:1,grpc://two:2", "/trunk:1"])
def test_a_trunk_s_address_has_no_scheme_and_no_path(address: str) -> None:
    with pytest.raises(ValidationError, match="a trunk's address is HOST:PORT; remove what is before or after it"):
        ClientSettings(weights=Path("w"), trunk=address)


def test_hosts_are_names_and_addresses_with_commas_between() -> None:
    assert parse_hosts(" LLM.example.com, *.lan,,*, ::1,[fe80::1] ") == {
        "llm.example.com",
        "*.lan",
        "*",
        "::1",
        "[fe80::1]",
    }


@pytest.mark.parametrize("trunk", ["trunk:1#s3cret", f"one:1#s3cret.{'0' * 64},two", f"one#s3cret.{'0' * 64}"])
def test_a_trunk_s_token_is_in_no_error_and_no_log(trunk: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ClientSettings(weights=Path("w"), trunk=trunk)
    assert "s3cret" not in str(refused.value)
    settings = ClientSettings(weights=Path("w"), trunk=f"one:1#s3cret.{'0' * 64}", trunk_token=SecretStr("s3cret"))
    assert "s3cret" not in repr(settings)
