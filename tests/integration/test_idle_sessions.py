"""A stranger's idle sessions on all seats of a worker keep no other client out: over gRPC, with tokens."""

from contextlib import AsyncExitStack
from pathlib import Path

import torch

from splitlearn_comm import Access, AsyncGRPCComputeClient, Frame, PositionNotReached, SessionOpening
from support.running_split import RunningTrunk, running_client, running_trunk

N_SEATS = 4
TOKENS = {"mallory": "the-token-of-mallory", "alice": "the-token-of-alice--"}


def hurry(trunk: RunningTrunk) -> None:
    """Lets idle sessions of the trunk look as if they were idle for a hundred times as long."""
    scheduler = trunk.trunk.engine._sessions.scheduler
    idle_seconds = scheduler.idle_seconds
    scheduler.idle_seconds = lambda session: 100 * idle_seconds(session)


async def test_another_client_is_served_at_once_and_those_that_made_way_go_on_when_they_send_all_rows_again(
    tiny_weights: Path, tmp_path: Path
) -> None:
    for name, token in TOKENS.items():
        (tmp_path / name).write_text(f"{name} {token}\n")
    (tmp_path / "tokens").write_text("".join((tmp_path / name).read_text() for name in TOKENS))
    async with AsyncExitStack() as stack:
        trunk = await stack.enter_async_context(
            running_trunk(tiny_weights, max_num_seqs=N_SEATS, token_file=tmp_path / "tokens")
        )
        hurry(trunk)
        rows_TD = torch.randn(3, trunk.trunk.engine.part.hidden_size, generator=torch.Generator().manual_seed(0))
        access = Access(token=lambda: TOKENS["mallory"])
        mallory = await stack.enter_async_context(AsyncGRPCComputeClient(trunk.address, access=access))
        silent = [
            await stack.enter_async_context(mallory.stream(SessionOpening(f"silent-{number}", trunk.fingerprint, 8)))
            for number in range(N_SEATS)
        ]
        for stream in silent:
            await stream.step(Frame(0, rows_TD[:2]))
        assert trunk.value("num_sessions_running") == N_SEATS

        alice = await stack.enter_async_context(
            running_client(tiny_weights, trunk.address, trunk_token_file=tmp_path / "alice")
        )
        await alice.ready()
        n_steps = trunk.trunk.metrics.n_steps
        answered = await alice.complete(prompt=[5, 6, 7], max_tokens=5, ignore_eos=True)
        assert answered.json()["usage"]["completion_tokens"] == 5
        assert trunk.trunk.metrics.n_steps - n_steps == 5
        assert trunk.value("num_preemptions_total") == 1

        outputs, n_replayed = [], 0
        for stream in silent:
            try:
                reply = await stream.step(Frame(2, rows_TD[2:]))
            except PositionNotReached:
                n_replayed += 1
                reply = await stream.step(Frame(0, rows_TD))
            assert reply.frame.rows is not None
            outputs.append(reply.frame.rows[-1])
        assert n_replayed == 1
        assert all(torch.allclose(output, outputs[0], atol=1e-5) for output in outputs)
