"""Tokens between the client service, the stages of a chain and strangers; and a worker that is public without settings.

The worker listens on all addresses in the one test of a public port; it is reached over loopback there too.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from splitlearn_comm.certificates import self_signed
from splitlearn_comm.pinned_address import PinnedAddress
from support.running_split import (
    PATIENCE,
    RunningClient,
    free_port,
    running_client,
    running_split,
    running_trunk,
    until,
)
from support.tls import NOW, replace

WEB, LAB, STAGE = "the-token-of-the-web", "the-token-of-the-lab", "the-token-of-a-stage"
ASK: dict[str, Any] = {"prompt": [5, 6, 7], "max_tokens": 10}


class PublicWorker:
    """`splitlearn trunk --host 0.0.0.0` as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def read_to(self, event: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        async with asyncio.timeout(4 * PATIENCE):
            async for text in self.process.stderr:
                self.lines.append(json.loads(text))
                if self.lines[-1]["event"] == event:
                    return self.lines[-1]
        raise AssertionError(f"the worker ended: {self.lines}")

    async def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.process.terminate()
        await self.process.communicate()


@asynccontextmanager
async def public_worker(weights: Path, state: Path, port: int) -> AsyncIterator[tuple[PublicWorker, PinnedAddress]]:
    """It serves; with it comes what its line says, reached over loopback."""
    words = ("-m", "splitlearn_cli", "--log-format", "json", "trunk", weights, "--host", "0.0.0.0", "--port", port)
    words = (*words, "--metrics-port", 0, "--threads", 1)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *map(str, words),
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(state)},
        stderr=asyncio.subprocess.PIPE,
    )
    worker = PublicWorker(process)
    try:
        starting = await worker.read_to("starting")
        assert "secret" in starting["note"]
        line = PinnedAddress.parse(str(starting["clients"]).removeprefix("--trunk "))
        await worker.read_to("serving")
        yield worker, PinnedAddress(f"127.0.0.1:{port}", line.token, line.fingerprint)
    finally:
        await worker.stop()


async def why_not(client: RunningClient) -> str:
    """Why the client is not ready, once the worker or the connection to it said so."""
    first = "has not answered yet"
    await until(lambda: first not in (client.service.connection.not_ready_reason or first))
    return str(client.service.connection.not_ready_reason)


async def test_a_public_worker_serves_who_has_its_line_and_nobody_else(tiny_weights: Path, tmp_path: Path) -> None:
    async with running_split(tiny_weights) as split:
        expected = (await split.client.complete(**ASK)).json()["choices"]
    port = free_port()
    with capture_logs() as said:
        async with AsyncExitStack() as stack:
            async with public_worker(tiny_weights, tmp_path, port) as (worker, line):
                client = await stack.enter_async_context(running_client(tiny_weights, line.line()))
                await client.ready()
                assert (await client.complete(**ASK)).json()["choices"] == expected

                wrong = {
                    "no answer from": line.address,
                    "asks for a token": PinnedAddress(line.address, WEB, line.fingerprint).line(),
                    "copy the line again": PinnedAddress(line.address, line.token, "0" * 64).line(),
                }
                for reason, trunk in wrong.items():
                    async with running_client(tiny_weights, trunk) as stranger:
                        assert reason in await why_not(stranger)
                        refused = await stranger.complete(**ASK)
                        assert refused.status_code == 503
                        assert reason in refused.text
                        assert line.token not in refused.text

            await until(lambda: not client.is_ready)
            # it comes back as the same worker
            async with public_worker(tiny_weights, tmp_path, port) as (again, same):
                assert same == line
                await client.ready()
                assert (await client.complete(**ASK)).json()["choices"] == expected

    sessions = [each for each in worker.lines if each["event"] == "session opened"]
    assert [each["client"] for each in sessions] == ["default"] * len(sessions)
    logs = [each for each in [*worker.lines, *again.lines] if each["event"] != "starting"]
    assert line.token not in str(said) + str(logs)


async def test_a_worker_with_another_certificate_is_told_apart_when_it_takes_the_place(
    tiny_weights: Path, tmp_path: Path
) -> None:
    """The client is connected by then. The certificates are given here, so that the worker need not be public."""
    port = free_port()
    pairs = {name: self_signed(NOW) for name in ("one", "other")}

    def self_signed_worker(name: str) -> dict[str, Any]:
        file = tmp_path / f"{name}.pem"
        file.write_bytes(pairs[name].key + pairs[name].certificate)
        return {"port": port, "tls_cert": file, "tls_key": file, "token": WEB}

    line = PinnedAddress(f"127.0.0.1:{port}", WEB, pairs["one"].fingerprint).line()
    async with running_trunk(tiny_weights, **self_signed_worker("one")):
        stack = AsyncExitStack()
        client = await stack.enter_async_context(running_client(tiny_weights, line))
        await client.ready()
    async with stack, running_trunk(tiny_weights, **self_signed_worker("other")):
        await until(lambda: "copy the line again" in (client.service.connection.not_ready_reason or ""))


async def test_tokens_change_without_a_restart_of_either_end(tiny_weights: Path, tmp_path: Path) -> None:
    workers, clients = tmp_path / "workers", tmp_path / "clients"
    workers.write_text(f"web {WEB}\n")
    clients.write_text(WEB)
    async with (
        running_trunk(tiny_weights, token_file=workers) as trunk,
        running_client(tiny_weights, trunk.address, trunk_token_file=clients) as client,
    ):
        await client.ready()
        assert (await client.complete(**ASK)).status_code == 200
        assert trunk.value("client_sessions_total", client="web") == 1

        replace(workers, f"web {LAB}\n".encode())
        await until(lambda: "asks for a token" in (client.service.connection.not_ready_reason or ""))
        assert (await client.complete(**ASK)).status_code == 503

        replace(clients, LAB.encode())
        await client.ready()
        assert (await client.complete(**ASK)).status_code == 200


async def test_each_stage_of_a_chain_asks_for_its_own_token(tiny_weights: Path) -> None:
    async with running_split(tiny_weights) as split:
        expected = (await split.client.complete(**ASK)).json()["choices"]
    with capture_logs() as said:
        async with AsyncExitStack() as stack:
            second = await stack.enter_async_context(running_trunk(tiny_weights, "2-4", token=STAGE))
            chained = {"next": second.address, "token": WEB}
            first = await stack.enter_async_context(running_trunk(tiny_weights, "1-2", next_token=STAGE, **chained))
            client = await stack.enter_async_context(running_client(tiny_weights, first.address, trunk_token=WEB))
            await client.ready()
            assert (await client.complete(**ASK)).json()["choices"] == expected

            stranger = await stack.enter_async_context(running_trunk(tiny_weights, "1-2", next_token=LAB, **chained))
            assert stranger.trunk.next_stage is not None
            replicas = stranger.trunk.next_stage.replicas
            await until(lambda: "asks for a token" in (replicas.reason or ""))
            assert second.value("refusals_total", error="Unauthenticated") > 0
    assert not re.search(f"{WEB}|{LAB}|{STAGE}", str(said))
