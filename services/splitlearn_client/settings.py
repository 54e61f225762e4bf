"""The client service's settings. Each is a flag of `splitlearn client` and an environment variable."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ByteSize, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn.choices import KVCacheDtype, Quantization, Verify
from splitlearn_client.link_speed import WireCodec

_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_SECRETS = re.compile(r"[A-Za-z0-9._~+/-]+=*\.[0-9A-Fa-f]{64}")
_HOST = re.compile(r"\*|(\*\.)?[a-z0-9._-]+|\[?[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:.]*\]?")
# what guesses by itself, and what guesses by the one --speculative-model
_LOOKUPS = ("ngram",)
_MODELS = ("draft_model", "shadow")


def parse_origins(text: str) -> tuple[str, ...]:
    """Origins as browsers send them. Raises ValueError."""
    origins = tuple(filter(None, (each.strip() for each in text.split(","))))
    for origin in origins:
        # any other spelling than a browser's would never match
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"expected * or http(s)://host[:port] in lower case without a path, found {origin!r}")
    return origins


def parse_hosts(text: str) -> frozenset[str]:
    """The allowed Host names, in lower case. Raises ValueError."""
    hosts = frozenset(filter(None, (each.strip().lower() for each in text.split(","))))
    for host in hosts:
        # a name with a scheme or a port would never match, and browsers send ASCII
        if not _HOST.fullmatch(host):
            raise ValueError(
                f"expected names such as llm.example.com or *.lan, without scheme and port, found {host!r}"
            )
    return hosts


def parse_methods(text: str) -> tuple[str, ...]:
    """The ways to guess, with commas between them; empty for none. Raises ValueError."""
    names = tuple(each.strip() for each in text.split(","))
    if names == ("none",):
        return ()
    if unknown := [each for each in names if each not in (*_LOOKUPS, *_MODELS)]:
        raise ValueError(f"expected none alone, or some of {', '.join((*_LOOKUPS, *_MODELS))}, found {unknown[0]!r}")
    if len({*names}) < len(names):
        raise ValueError("expected each method once")
    if {*_MODELS} <= {*names}:
        raise ValueError(f"{' and '.join(_MODELS)} would need a --speculative-model each; choose one of them")
    return names


def _readable(parse: Callable[[str], object]) -> AfterValidator:
    def check(text: str | None) -> str | None:
        try:
            parse(text or "")
        except ValueError as error:
            raise PydanticCustomError("unreadable", "{reason}", {"reason": str(error)}) from error
        return text

    return AfterValidator(check)


def _addresses(text: str) -> str:
    """Refuses invalid addresses at the start; names are resolved later, repeatedly.

    `splitlearn_comm.addresses` has a full check, but importing that package imports torch, and `--help` reads these
    settings.
    """
    if not text.startswith(("unix:", "dns:", "ipv4:", "ipv6:")):
        for address in text.split(","):
            _check_address(address.strip())
    return text


def _check_address(text: str) -> None:
    address, mark, secrets = text.partition("#")
    if mark and not _SECRETS.fullmatch(secrets):
        raise PydanticCustomError("address", "paste HOST:PORT#TOKEN.FINGERPRINT whole, as the worker prints it")
    if "/" in address:
        raise PydanticCustomError("address", "a trunk's address is HOST:PORT; remove what is before or after it")
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port[-6:]) <= 65535 and len(port) < 6):
        raise PydanticCustomError("address", "a trunk's address is HOST:PORT, with a port from 1 to 65535")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise PydanticCustomError("address", "an IPv6 address goes into brackets, as in [::1]:50051")


# with the row before them as many as a step takes of a session that decodes; what counts them imports torch
_MOST_GUESSES = 7
_SHORTEST_KEY = 16
_LONGEST_KEY = 512


def check_key(key: str) -> str:
    """An API key that nobody guesses and an HTTP header can hold. Raises PydanticCustomError, which does not repeat it.

    Keys may be tried as fast as requests can be made. 16 random characters are 64 bits and more.
    """
    if len(key) < _SHORTEST_KEY:
        raise PydanticCustomError(
            "key",
            "a key with fewer than {least} characters could be guessed; `openssl rand -hex 32` makes one",
            {"least": _SHORTEST_KEY},
        )
    if len(key) > _LONGEST_KEY or not (key.isascii() and key.isprintable()) or " " in key:
        raise PydanticCustomError(
            "key", "a key has at most {most} printable ASCII characters without spaces", {"most": _LONGEST_KEY}
        )
    return key


def _secret_key(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None:
        check_key(secret.get_secret_value())
    return secret


ServiceKey = Annotated[SecretStr | None, AfterValidator(_secret_key)]
"""The API key of a service, whose value no message shows."""


class ClientSettings(BaseSettings):
    """Parsed once at start; an invalid value ends the process before anything is loaded."""

    # errors would show the API key, and what is behind a trunk's address
    model_config = SettingsConfigDict(
        env_prefix="SPLITLEARN_CLIENT_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    weights: Path = Field(
        description="Sepweight directory with the first and last layers and the tokenizer; or a model on the hub, "
        "ORG/NAME or ORG/NAME@REV, of which only these are fetched. A path that exists is a path."
    )
    cache_dir: Path | None = Field(
        None,
        description="Directory in which models that are given by their names are kept. Default: "
        "$XDG_CACHE_HOME/splitlearn, or ~/.cache/splitlearn.",
    )
    trunk: Annotated[str, AfterValidator(_addresses)] = Field(
        "127.0.0.1:50051",
        repr=False,
        description="HOST:PORT of the trunk, or of its replicas, with commas between them; "
        "HOST:PORT#TOKEN.FINGERPRINT as a worker prints it. A name may have several addresses, and is resolved again "
        "every two seconds.",
    )
    trunk_token: SecretStr | None = Field(
        None, description="Token that the workers ask for whose address has none behind it."
    )
    trunk_token_file: Path | None = Field(None, description="File with that token; it is read again when it changes.")
    trunk_insecure: bool = Field(
        False, description="Send that token without encryption to other machines too. For private networks."
    )
    tls_ca: Path | None = Field(
        None,
        description="PEM file of the authorities that vouch for the trunk's workers. "
        "Connections are then encrypted. "
        "`splitlearn certs` makes these files.",
    )
    tls_cert: Path | None = Field(
        None,
        description="PEM file of this client's certificate, which is read again when it changes. "
        "Workers may ask for it.",
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's private key.")
    layers: str | None = Field(
        None,
        description="Layers that the trunk must serve, START-END. Default: the layers that the trunk reports.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 or :: opens the port to the network.")
    port: int = Field(8000, ge=0, le=65535, description="HTTP port of the API and the chat page; 0 picks a free one.")
    api_key: ServiceKey = Field(
        None,
        description="A key of 16 characters or more that callers must send as a bearer token; one for all of them. A "
        "key on the command line can be seen in process lists; one in the variable or in --tenants cannot.",
    )
    tenants: Path | None = Field(
        None,
        description="TOML file of tenants with their API keys and quotas, which is read again when it changes; see "
        "docs/api.md. Default: without it and without --api-key, callers need no key.",
    )
    protect_metrics: bool = Field(
        False,
        description="Answer /metrics only to the key of --api-key, and to tenants with `metrics = true`.",
    )
    ssl_certfile: Path | None = Field(
        None,
        description="PEM file of the API's certificate, which is read again when it changes. Default: plain HTTP.",
    )
    ssl_keyfile: Path | None = Field(
        None, description="PEM file of that certificate's private key. Default: the same file."
    )
    allowed_origins: Annotated[str | None, _readable(parse_origins)] = Field(
        None,
        description="Origins whose pages may call the API from a browser, ORIGIN,ORIGIN,... or *. Default: none.",
    )
    allowed_hosts: Annotated[str | None, _readable(parse_hosts)] = Field(
        None,
        description="Names that requests may give as their Host, such as llm.example.com,*.lan; * allows any. "
        "Default: addresses and localhost if only this machine can connect, else any.",
    )
    served_model_name: str | None = Field(None, description="The model's name in the API. Default: as converted.")
    generation_config: Literal["auto", "vllm"] = Field(
        "auto",
        description="Sampling values for what a request leaves out: auto takes the model's generation_config.json, "
        "vllm takes OpenAI's defaults.",
    )
    chat_template_content_format: Literal["auto", "string", "openai"] = Field(
        "auto",
        description="The form of a message's content that the chat template gets: string, openai (a list of parts), or "
        "auto, which probes the template.",
    )
    tool_call_parser: Literal["auto", "none", "hermes", "llama3", "mistral", "gemma", "harmony", "deepseek"] = Field(
        "auto",
        description="The form in which the model calls tools; hermes is Qwen's too, harmony is that of gpt-oss. auto "
        "takes what the chat template shows.",
    )
    reasoning_parser: Literal["auto", "none", "think", "mistral", "gemma", "harmony"] = Field(
        "auto",
        description="What is around the model's reasoning: think (<think>), mistral ([THINK]), gemma (<|channel>) or "
        "harmony (channels). auto takes what the chat template shows.",
    )
    pooling: Literal["auto", "cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean"] = Field(
        "auto",
        description="How a text's hidden states become its embedding, by sentence-transformers' names: auto takes what "
        "the model's modules.json names, or else the last token's, normalised. See docs/api.md.",
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    dtype: str | None = Field(None, description="float32, bfloat16 or float16. Default: as stored.")
    quantization: Quantization = Field(
        "none",
        description="int8 halves the weights in memory, int4 takes 4.5 bits for each; both round them. CPU only. "
        "See docs/weights.md.",
    )
    screen_head: bool = Field(
        True,
        description="Keep the head's weight in 8 bits too. Greedy requests, and those with a top_k, read that, and of "
        "the exact weight only what the likeliest tokens need: the same tokens, sooner, for half as much memory again "
        "as the head takes. For bfloat16 on a CPU. See docs/weights.md.",
    )
    kv_cache_dtype: KVCacheDtype = Field(
        "auto",
        description="int8 nearly halves the memory of keys and values and rounds them; for bfloat16 on a CPU. "
        "See docs/weights.md.",
    )
    threads: int | None = Field(None, ge=1, description="CPU cores for one operator. Default: torch's choice.")
    wire_codec: WireCodec = Field(
        "none",
        description="How hidden states are encoded between client and trunk: none and zlib are exact; bf16, fp16 and "
        "int8 round, and send fewer bytes; auto is int8 over links that are slower than the trunk, else none.",
    )
    speculative_method: Annotated[str, _readable(parse_methods)] = Field(
        "none",
        description="How the next tokens are guessed, so that one trip to the trunk gives several: ngram looks up what "
        "followed the last tokens where they stood before, draft_model asks the model of --speculative-model, and "
        "shadow the client's own layers with the shadow of --speculative-model in place of the trunk. ngram,shadow and "
        "ngram,draft_model ask both, by what was measured of them. Answers are the same to the token. See "
        "docs/speculation.md.",
    )
    speculative_model: Path | None = Field(
        None,
        description="For draft_model the sepweight directory of a small model with the same tokenizer, whole; for "
        "shadow the folder that `cleangpt distill --shadow` wrote for this model and cut.",
    )
    num_speculative_tokens: int = Field(
        _MOST_GUESSES,
        ge=1,
        le=_MOST_GUESSES,
        description="Guesses in a trip, at most; how many pay is measured.",
    )
    speculative_rounding: bool = Field(
        False,
        description="Guess also where a row may be rounded otherwise beside guesses than alone (fp32, GPUs): an answer "
        "may then differ where two tokens are almost equally likely.",
    )
    pad_frames: bool = Field(
        False,
        description="Fill frames up to --num-speculative-tokens guesses, so that their size does not tell how many "
        "there were. See docs/privacy.md.",
    )
    frame_interval: float = Field(
        0.0,
        ge=0,
        # a worker may end streams that are idle for longer
        le=20,
        description="Seconds: an answer's frames begin at multiples of it after the first one, so times tell less; "
        "0 for as soon as possible.",
    )
    kv_cache_memory_bytes: ByteSize | None = Field(
        None,
        description="Memory for the KV cache of the client's own layers, for example 1GiB. Default: a quarter of what "
        "is free after loading.",
    )
    max_waiting: int = Field(256, ge=0, description="Requests that may wait for their turn; further ones get HTTP 429.")
    max_num_batched_tokens: int = Field(512, ge=16, description="Prompt rows in one step while no request decodes.")
    enable_prefix_caching: bool = Field(
        True, description="Send keyed hashes of prompt blocks to the trunk, so that it can reuse cached ones."
    )
    verify: Verify = Field(
        "auto",
        description="When the client's files are compared with their digests: always before serving; never; or auto, "
        "before serving if that takes under two seconds, else while serving. Sizes are always compared.",
    )
    trunk_timeout: float = Field(
        5.0,
        gt=0,
        description="Seconds without a message from a replica of the trunk after which it counts as frozen. While it "
        "works, it sends a sign of life every half second.",
    )
    failover_timeout: float = Field(
        30.0,
        ge=0,
        description="Seconds that a request waits for a replica to go on with after one failed; it may be the same.",
    )
    queue_timeout: float = Field(
        30.0,
        gt=0,
        description="Seconds that a request may wait for the client's own KV cache. One that may have to wait "
        "longer gets 429 at once, and one that has waited that long then.",
    )
    max_body: ByteSize = Field(
        ByteSize(8 * 2**20),
        ge=2**10,
        description="Bytes of one request body; all bodies together may take eight times as many.",
    )
    response_store_bytes: ByteSize = Field(
        ByteSize(64 * 2**20),
        ge=0,
        description="Memory for the responses of /v1/responses that later requests may go on with, of all tenants "
        "together; the oldest make room. 0 keeps none.",
    )
    max_connections: int | None = Field(
        None, ge=2, description="Open connections. Default: what the limit on open files allows, at most 4096."
    )
    header_timeout: float = Field(10.0, gt=0, description="Seconds in which the headers of a request must arrive.")
    body_timeout: float = Field(60.0, gt=0, description="Seconds in which the body of a request must arrive.")
    send_timeout: float = Field(
        30.0, gt=0, description="Seconds without progress after which a caller that does not read is disconnected."
    )
    timeout_keep_alive: float = Field(75.0, gt=0, description="Seconds that an idle connection stays open.")
    otlp_traces_endpoint: str | None = Field(
        None,
        description="URL that takes OpenTelemetry spans over HTTP, such as http://localhost:4318/v1/traces; needs the "
        "extra otel. Default: what OTEL_EXPORTER_OTLP_ENDPOINT says; without it nothing is traced.",
    )
    shutdown_timeout: float = Field(
        5.0, ge=0, description="Seconds that running requests may take to end after SIGTERM."
    )

    @model_validator(mode="after")
    def _what_guesses_is_named(self) -> Self:
        asks_model = not {*_MODELS}.isdisjoint(parse_methods(self.speculative_method))
        if asks_model != (self.speculative_model is not None):
            raise PydanticCustomError(
                "contradiction", "draft_model or shadow, and --speculative-model, need each other"
            )
        return self

    @model_validator(mode="after")
    def _padding_is_for_guesses(self) -> Self:
        if self.pad_frames and not parse_methods(self.speculative_method):
            raise PydanticCustomError(
                "contradiction", "--pad-frames needs a --speculative-method: without guesses every frame has one row"
            )
        return self

    @model_validator(mode="after")
    def _somebody_may_read_metrics(self) -> Self:
        if self.protect_metrics and self.api_key is None and self.tenants is None:
            raise PydanticCustomError("contradiction", "--protect-metrics needs --api-key or --tenants")
        return self
