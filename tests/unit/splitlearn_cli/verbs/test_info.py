import asyncio
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from splitlearn_comm import AsyncGRPCComputeServer
from splitlearn_comm.certificates import self_signed
from splitlearn_comm.pinned import server_credentials
from splitlearn_comm.pinned_address import PinnedAddress
from splitlearn_comm.testing import EchoSessionHost, loopback
from splitlearn_comm.token_files import Tokens

Run = Callable[..., Any]
TOKEN = "the-token-of-a-trunk"


async def test_a_trunk_is_asked_what_it_serves(splitlearn: Run) -> None:
    async with loopback(session_host=EchoSessionHost()) as (_, client):
        ran = await asyncio.to_thread(splitlearn, "info", client.target)

        assert ran.code == 0, ran.err
        rows = dict(line.split(maxsplit=1) for line in ran.out.splitlines() if len(line.split()) > 1)
        info = await client.service_info()
        assert rows["service"] == f"{info.service_name} {info.version}"
        assert rows["device"] == info.device
        assert rows["health"] == "serving"


async def test_a_trunk_that_does_not_serve_is_a_failure(splitlearn: Run) -> None:
    async with loopback(session_host=EchoSessionHost()) as (server, client):
        await server.set_serving(False)
        ran = await asyncio.to_thread(splitlearn, "info", client.target)

    assert ran.code == 1
    assert "not serving" in ran.out


def test_an_unreachable_address_is_one_line(splitlearn: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"

    ran = splitlearn("info", address)

    assert ran.code == 1
    assert address in ran.err
    assert ran.err.count("\n") == 1


async def test_a_trunk_is_asked_by_the_line_that_it_printed(splitlearn: Run) -> None:
    pair = self_signed(datetime.now(UTC))
    credentials, tokens = server_credentials(pair), Tokens(TOKEN)
    async with AsyncGRPCComputeServer(session_host=EchoSessionHost(), credentials=credentials, tokens=tokens) as trunk:
        address = f"127.0.0.1:{trunk.port}"
        ran = await asyncio.to_thread(splitlearn, "info", PinnedAddress(address, TOKEN, pair.fingerprint).line())
        other = PinnedAddress(address, f"{TOKEN}-of-another", pair.fingerprint).line()
        refused = await asyncio.to_thread(splitlearn, "info", other)

    assert ran.code == 0, ran.err
    assert refused.code == 1
    assert "asks for a token" in refused.err
    assert TOKEN not in refused.err


async def test_a_token_of_a_file_is_sent(splitlearn: Run, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    async with AsyncGRPCComputeServer(session_host=EchoSessionHost(), tokens=Tokens(TOKEN)) as trunk:
        address = f"127.0.0.1:{trunk.port}"
        ran = await asyncio.to_thread(splitlearn, "info", address, "--token-file", str(tmp_path / "token"))
        refused = await asyncio.to_thread(splitlearn, "info", address)

    assert ran.code == 0, ran.err
    assert refused.code == 1
    assert "asks for a token" in refused.err


def test_half_a_line_is_refused_without_showing_the_token(splitlearn: Run) -> None:
    ran = splitlearn("info", f"127.0.0.1:1#{TOKEN}")

    assert ran.code == 1
    assert "paste HOST:PORT#TOKEN.FINGERPRINT whole" in ran.err
    assert TOKEN not in ran.err
