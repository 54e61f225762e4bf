"""The trunk worker's settings: each is a flag of `splitlearn trunk` and an environment variable."""

from pathlib import Path
from typing import Literal

from pydantic import ByteSize, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class TrunkSettings(BaseSettings):
    """Parsed once at start; a bad value stops the process before anything is loaded."""

    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_TRUNK_", frozen=True, extra="forbid")

    weights: Path = Field(description="Sepweight directory; only the files of these layers need be in it.")
    layers: str | None = Field(
        None,
        description="Layers to serve, START-END without END, for example 2-22. Default: all but the ends.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 or :: opens the ports to the network.")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 picks a free one.")
    metrics_port: int = Field(9101, ge=0, le=65535, description="Port of /metrics; 0 picks a free one.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    dtype: str | None = Field(None, description="float32, bfloat16 or float16. Default: as stored.")
    quantization: Literal["none", "int8"] = Field(
        "none", description="int8 halves the weights in memory and rounds them; CPU only. See docs/weights.md."
    )
    threads: int | None = Field(None, ge=1, description="Cores for one operator. Default: torch's choice.")
    kv_memory: ByteSize | None = Field(
        None, description="Memory for keys and values, for example 4GiB. Default: half of what is free after loading."
    )
    max_sessions: int = Field(256, ge=1, description="Sessions that hold keys and values at a time.")
    max_waiting: int = Field(256, ge=0, description="Sessions that may wait for room; more are told to come later.")
    max_streams: int | None = Field(
        None,
        ge=1,
        description="Streams open at a time, those that wait for their client included; more come later. Each may hold "
        "4 MiB of a message that does not end. Default: what a quarter of the free memory takes, at most 1024.",
    )
    queue_timeout: float = Field(
        30.0, gt=0, description="Seconds that a session's rows may wait for room; then it is told to come later."
    )
    step_rows: int = Field(512, ge=16, description="Rows of prompts in one step, when nobody waits for a token.")
    idle_timeout: float = Field(600.0, gt=0, description="Seconds after which an unused session loses its memory.")
    prefix_reuse: bool = Field(True, description="Keep closed sessions' blocks for later ones that begin alike.")
    verify: Literal["auto", "always", "never"] = Field(
        "auto",
        description="When the files are compared with their digests: always before serving; never; or auto, before "
        "serving where that takes under two seconds, else while serving. Sizes are always compared.",
    )
    grace: float = Field(5.0, ge=0, description="Seconds that open sessions get to end after SIGTERM.")
