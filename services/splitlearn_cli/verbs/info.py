"""`splitlearn info`: shows what a trunk serves."""

import asyncio
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn_cli.terminal import aligned


class Settings(BaseSettings):
    """The trunk, and timeouts."""

    model_config = SettingsConfigDict(
        env_prefix="SPLITLEARN_INFO_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    address: str = Field(
        repr=False,
        description="HOST:PORT of the trunk, an IPv6 address in brackets; or HOST:PORT#TOKEN.FINGERPRINT as it prints "
        "it.",
    )
    timeout: float = Field(5.0, gt=0, description="Seconds to wait for the answer.")
    wait: float = Field(0.0, ge=0, description="Seconds to wait for a trunk that is starting.")
    tls_ca: Path | None = Field(None, description="PEM file of the authorities that vouch for the trunk.")
    tls_cert: Path | None = Field(None, description="PEM file of a certificate that the trunk accepts.")
    tls_key: Path | None = Field(None, description="PEM file of the certificate's private key.")
    token: SecretStr | None = Field(None, description="Token that the trunk asks for.")
    token_file: Path | None = Field(None, description="File with that token.")
    insecure: bool = Field(False, description="Send the token without encryption to another machine too.")


def run(settings: Settings) -> int:
    """Prints model, layers, fingerprint, device and load. Exit code 1 if no trunk answers, or it is not serving."""
    lines, serving = asyncio.run(_ask(settings))
    print(aligned(lines))
    return 0 if serving else 1


async def _ask(settings: Settings) -> tuple[list[tuple[str, str]], bool]:
    from splitlearn_cli.waiting import wait_for_trunk
    from splitlearn_comm import AsyncGRPCComputeClient
    from splitlearn_comm.access import access_from, access_to

    general = access_from(settings, settings.token, settings.token_file, is_insecure=settings.insecure)
    address, access = access_to(settings.address, general)
    async with AsyncGRPCComputeClient(address, timeout=settings.timeout, access=access) as trunk:
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
