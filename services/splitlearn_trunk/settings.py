"""The trunk worker's settings. Each is a flag of `splitlearn trunk` and an environment variable."""

from itertools import combinations
from pathlib import Path
from typing import Self

from pydantic import ByteSize, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn.choices import EngineName, KVCacheDtype, Quantization, Verify


class TrunkSettings(BaseSettings):
    """Parsed once at start; an invalid value ends the process before anything is loaded."""

    model_config = SettingsConfigDict(
        env_prefix="SPLITLEARN_TRUNK_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    weights: Path = Field(
        description="Sepweight directory, in which only the files of these layers need be; or a model on the hub, "
        "ORG/NAME or ORG/NAME@REV, of which only these layers are fetched. A path that exists is a path."
    )
    cache_dir: Path | None = Field(
        None,
        description="Directory in which models that are given by their names are kept. Default: "
        "$XDG_CACHE_HOME/splitlearn, or ~/.cache/splitlearn.",
    )
    layers: str | None = Field(
        None,
        description="Layers to serve, START-END without END, such as 2-22. Default: all but a twelfth at each end.",
    )
    next: str | None = Field(
        None,
        repr=False,
        description="HOST:PORT of the worker that serves the layers behind these, or of its replicas, with commas "
        "between them; HOST:PORT#TOKEN.FINGERPRINT as it prints it. Clients then see one trunk with the layers of "
        "both. Default: this worker is the last.",
    )
    next_token: SecretStr | None = Field(
        None, description="Token that the next worker asks for, unless its address has one."
    )
    next_token_file: Path | None = Field(None, description="File with that token; it is read again when it changes.")
    next_timeout: float = Field(
        5.0, gt=0, description="Seconds without a message from the next worker after which it counts as frozen."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 or :: opens the ports to the network.")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 picks a free one.")
    metrics_port: int = Field(9101, ge=0, le=65535, description="Port of /metrics; 0 picks a free one.")
    health_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="gRPC port without TLS that serves grpc.health.v1 and nothing else, for probes; it answers before "
        "the layers are loaded. 0 picks a free one. Default: none.",
    )
    tls_ca: Path | None = Field(
        None,
        description="PEM file of the authorities that vouch for clients and for the next worker. Clients without a "
        "certificate of theirs are refused. "
        "`splitlearn certs` makes these files.",
    )
    tls_cert: Path | None = Field(
        None,
        description="PEM file of this worker's certificate, which is read again when it changes. Default: on "
        "loopback connections are not encrypted, on other addresses the worker makes a certificate and a token.",
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's private key.")
    token: SecretStr | None = Field(None, description="Token that every call must have, of 16 characters or more.")
    token_file: Path | None = Field(
        None,
        description="File of such tokens, one in each line, with or without a name before it; it is read again when "
        "it changes.",
    )
    insecure: bool = Field(
        False,
        description="Make neither a certificate nor a token on a public address, and send the next worker's token "
        "without encryption. For private networks.",
    )
    state_dir: Path | None = Field(
        None,
        description="Directory of the certificate and the token that the worker made. Default: "
        "$XDG_STATE_HOME/splitlearn, or ~/.local/state/splitlearn.",
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    dtype: str | None = Field(None, description="float32, bfloat16 or float16. Default: as stored.")
    engine: EngineName = Field(
        "native",
        description="vllm lets vLLM compute the layers, which has to be installed; what it cannot serve runs on the "
        "native engine. See docs/vllm_engine.md.",
    )
    tensor_parallel: int = Field(
        1, ge=1, description="Processes on this machine that share each layer; with --engine vllm alone."
    )
    quantization: Quantization = Field(
        "none",
        description="int8 halves the weights in memory, int4 takes 4.5 bits for each; both round them. CPU only. "
        "See docs/weights.md.",
    )
    kv_cache_dtype: KVCacheDtype = Field(
        "auto",
        description="int8 nearly halves the memory of keys and values and rounds them; for bfloat16 on a CPU. "
        "See docs/weights.md.",
    )
    threads: int | None = Field(None, ge=1, description="CPU cores for one operator. Default: torch's choice.")
    kv_cache_memory_bytes: ByteSize | None = Field(
        None, description="Memory for the KV cache, for example 4GiB. Default: half of what is free after loading."
    )
    max_num_seqs: int = Field(256, ge=1, description="Sessions that hold keys and values at the same time.")
    max_waiting: int = Field(
        256,
        ge=0,
        description="Sessions that may wait for their turn; further ones are refused with a time to retry.",
    )
    max_streams: int | None = Field(
        None,
        ge=1,
        description="Open streams, idle ones included; further ones are refused with a time to retry. Each may hold "
        "4 MiB of an incomplete message. Default: as many as fit in a quarter of the free memory, at most 1024.",
    )
    queue_timeout: float = Field(
        30.0,
        gt=0,
        description="Seconds that a session may wait for its turn. One that may have to wait longer is refused at "
        "once, and one that has waited that long then, with a time to retry.",
    )
    max_num_batched_tokens: int = Field(512, ge=16, description="Prompt rows in one step while no session decodes.")
    session_idle_timeout: float = Field(
        600.0, gt=0, description="Seconds after which an unused session loses its KV cache."
    )
    enable_prefix_caching: bool = Field(
        True, description="Cache the prompts of closed sessions for later sessions that begin the same."
    )
    verify: Verify = Field(
        "auto",
        description="When the files are compared with their digests: always before serving; never; or auto, before "
        "serving if that takes under two seconds, else while serving. Sizes are always compared.",
    )
    otlp_traces_endpoint: str | None = Field(
        None,
        description="URL that takes OpenTelemetry spans over HTTP, such as http://localhost:4318/v1/traces; needs the "
        "extra otel. Default: what OTEL_EXPORTER_OTLP_ENDPOINT says; without it nothing is traced.",
    )
    shutdown_timeout: float = Field(5.0, ge=0, description="Seconds that open sessions may take to end after SIGTERM.")

    @model_validator(mode="after")
    def _has_a_port_for_each(self) -> Self:
        ports = {"--port": self.port, "--metrics-port": self.metrics_port, "--health-port": self.health_port}
        for one, other in combinations(ports, 2):
            if ports[one] and ports[one] == ports[other]:
                raise PydanticCustomError(
                    "contradiction",
                    "{one} and {other} are both {port}; give each a port of its own, or 0 for any free one",
                    {"one": one, "other": other, "port": ports[one]},
                )
        return self

    @model_validator(mode="after")
    def _fits_the_engine(self) -> Self:
        is_vllm = self.engine == "vllm"
        beside = {
            "--quantization": is_vllm and self.quantization != "none",
            "--kv-cache-dtype": is_vllm and self.kv_cache_dtype != "auto",
            "--threads": is_vllm and self.threads is not None,
            "--tensor-parallel": not is_vllm and self.tensor_parallel > 1,
        }
        for flag, contradicts in beside.items():
            if contradicts:
                other = "native" if is_vllm else "vllm"
                raise PydanticCustomError(
                    "contradiction",
                    "{flag} is for --engine {other} alone; leave it out, or choose that engine",
                    {"flag": flag, "other": other},
                )
        return self
