"""Clients of a worker take turns where memory is short, whatever they claim: over gRPC, with tokens."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import torch

from splitlearn_comm import Access, AsyncGRPCComputeClient, Frame, SessionOpening
from support.running_split import running_trunk, until

TOKENS = {"many": "the-token-of-many", "few": "the-token-of-few-"}


async def test_a_client_that_claims_many_tenants_takes_turns_with_one_that_claims_none(
    tiny_weights: Path, tmp_path: Path
) -> None:
    """A place for one session, which is free again and again: the two clients get it by turns."""
    (tmp_path / "tokens").write_text("".join(f"{name} {token}\n" for name, token in TOKENS.items()))
    limits = {"max_num_seqs": 1, "queue_timeout": 600.0}
    async with AsyncExitStack() as stack:
        trunk = await stack.enter_async_context(
            running_trunk(tiny_weights, "1-4", token_file=tmp_path / "tokens", **limits)
        )
        engine = trunk.trunk.engine
        held = engine.open(owner=("", "", ""))
        await engine.step(held, 0, torch.zeros(1, engine.part.hidden_size))
        # it does not make way, however long it does nothing
        engine._sessions.scheduler.idle_seconds = lambda _: 0.0
        admitted: list[str] = []

        async def come(name: str, tenant: str) -> None:
            access = Access(token=lambda: TOKENS[name])
            opening = SessionOpening(name, trunk.fingerprint, 8, tenant=tenant)
            async with AsyncGRPCComputeClient(trunk.address, access=access) as client, client.stream(opening) as stream:
                await stream.step(Frame(0, torch.ones(1, engine.part.hidden_size)))
                admitted.append(name)

        # the crowd is there first
        waiting = [asyncio.create_task(come("many", str(number))) for number in range(30)]
        await until(lambda: engine.n_waiting == 30)
        waiting += [asyncio.create_task(come("few", "")) for _ in range(5)]
        await until(lambda: engine.n_waiting == 35)
        engine.close(held)
        await asyncio.gather(*waiting)
    assert admitted[:10].count("few") == 5
