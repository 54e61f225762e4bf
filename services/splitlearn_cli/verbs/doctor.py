"""`splitlearn doctor`: versions, what this machine can do, and whether the fast path is taken."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn.choices import Quantization
from splitlearn_cli.diagnosis import findings_of_installation, findings_of_machine, findings_of_model
from splitlearn_cli.terminal import aligned


class Settings(BaseSettings):
    """What to look at."""

    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_DOCTOR_", frozen=True, extra="forbid")

    weights: Path | None = Field(None, description="Sepweight directory whose layers are tried.")
    layers: str | None = Field(None, description="Layers to try, START-END. Default: four of the trunk's.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    dtype: str | None = Field(None, description="float32, bfloat16 or float16. Default: as stored.")
    quantization: Quantization = Field("none", description="As for the services.")


def run(settings: Settings) -> None:
    """Prints what decides how fast a model runs here, and what to do about each "no". Put it into bug reports."""
    found = [*findings_of_installation(), *findings_of_machine()]
    if settings.weights is not None:
        found += findings_of_model(
            settings.weights, settings.layers, settings.device, settings.dtype, settings.quantization
        )
    lines = aligned([(each.name, each.value) for each in found]).splitlines()
    for line, each in zip(lines, found, strict=True):
        print(line if each.advice is None else f"{line}\n  -> {each.advice}")
