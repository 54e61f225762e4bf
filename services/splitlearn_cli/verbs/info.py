"""`splitlearn info`: shows what a trunk serves."""

import asyncio
from functools import partial
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn_cli.terminal import aligned


class Settings(BaseSettings):
    """The trunk, and timeouts."""

    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_INFO_", frozen=True, extra="forbid")

    address: str = Field(description="HOST:PORT of the trunk; an IPv6 address in brackets.")
    timeout: float = Field(5.0, gt=0, description="Seconds to wait for the answer.")
    wait: float = Field(0.0, ge=0, description="Seconds to wait for a trunk that is starting.")
    tls_ca: Path | None = Field(None, description="PEM file of the authorities that vouch for the trunk.")
    tls_cert: Path | None = Field(None, description="PEM file of a certificate that the trunk accepts.")
    tls_key: Path | None = Field(None, description="PEM file of the certificate's private key.")


def run(settings: Settings) -> int:
    """Prints model, layers, fingerprint, device and load. Exit code 1 if no trunk answers, or it is not serving."""
    lines, serving = asyncio.run(_ask(settings))
    print(aligned(lines))
    return 0 if serving else 1


async def _ask(settings: Settings) -> tuple[list[tuple[str, str]], bool]:
    from splitlearn_cli.waiting import wait_for_trunk
    from splitlearn_comm import AsyncGRPCComputeClient
    from splitlearn_comm.tls import channel_credentials, tls_files

    tls = tls_files(settings.tls_ca, settings.tls_cert, settings.tls_key)
    credentials = None if tls is None else partial(channel_credentials, tls)
    async with AsyncGRPCComputeClient(settings.address, timeout=settings.timeout, credentials=credentials) as trunk:
        info = await wait_for_trunk(trunk, settings.wait)
        serving = await trunk.health()
    lines = [
        ("service", f"{info.service_name} {info.version}"),
        ("health", "serving" if serving else "not serving"),
        *((name.replace("_", " "), value) for name, value in sorted(info.attributes.items())),
        ("device", info.device),
        ("fingerprint", info.fingerprint),
        ("requests", str(info.total_requests)),
        ("uptime", f"{info.uptime_seconds:.0f} s"),
    ]
    return lines, serving
