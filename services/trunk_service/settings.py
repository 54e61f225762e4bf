"""The trunk worker's settings: each is a flag of `splitlearn trunk` and an environment variable."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class TrunkSettings(BaseSettings):
    """Parsed once at start; a bad value stops the process before anything is loaded."""

    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_TRUNK_", frozen=True, extra="forbid")

    weights: Path = Field(description="Sepweight directory; only the files of these layers need be in it.")
    layers: str | None = Field(
        None,
        description="Layers to serve, START-END without END, for example 2-22. Default: all but the ends.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 opens the port to the network.")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 picks a free one.")
    metrics_port: int = Field(9101, ge=0, le=65535, description="Port of /metrics; 0 picks a free one.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    dtype: str | None = Field(None, description="float32, bfloat16 or float16. Default: as stored.")
    threads: int | None = Field(None, ge=1, description="Cores for one operator. Default: torch's choice.")
    verify: bool = Field(False, description="Compare the files with their digests before serving.")
    grace: float = Field(5.0, ge=0, description="Seconds that open sessions get to end after SIGTERM.")
