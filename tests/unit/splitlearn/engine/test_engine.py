import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from architectures.small_configs import small_config
from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import DeviceThread, Engine, Limits, RowReader, batching_policy
from splitlearn.engine.session import EngineSession
from splitlearn.errors import BadRows, ContextExceeded, NoRoom, PositionNotReached
from support.tiny_models import random_model, save_sepweight

D = 64


@pytest.fixture(scope="module")
def thread() -> Iterator[DeviceThread]:
    with DeviceThread(1) as thread:
        yield thread


@pytest.fixture(scope="module")
def engine(thread: DeviceThread, tiny_weights: Path) -> Engine:
    return build_engine(load_part(tiny_weights, "1-4"), thread)


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


async def outputs(engine: Engine, hidden_TD: torch.Tensor) -> torch.Tensor:
    return (await engine.step(engine.open(), 0, hidden_TD)).output


async def test_rows_step_by_step_equal_rows_at_once(engine: Engine) -> None:
    hidden_TD = rows(9)
    session = engine.open()
    parts = [(await engine.step(session, i, hidden_TD[i : i + 1])).output for i in range(9)]
    torch.testing.assert_close(torch.cat(parts), await outputs(engine, hidden_TD), atol=1e-5, rtol=0)


async def test_a_resent_frame_gives_the_same_rows_again(engine: Engine) -> None:
    hidden_TD = rows(6)
    session = engine.open()
    await engine.step(session, 0, hidden_TD[:4])
    first = await engine.step(session, 4, hidden_TD[4:])
    again = await engine.step(session, 4, hidden_TD[4:])
    assert torch.equal(first.output, again.output)
    assert session.reached == 6


async def test_after_a_truncation_the_session_is_as_if_the_dropped_rows_had_never_come(engine: Engine) -> None:
    kept_TD, dropped_TD, new_TD = rows(5), rows(7, seed=1), rows(3, seed=2)
    session = engine.open()
    await engine.step(session, 0, kept_TD)
    await engine.step(session, 5, dropped_TD)
    await engine.step(session, 5, torch.empty(0, D))
    assert session.reached == 5
    output = (await engine.step(session, 5, new_TD)).output
    expected = await outputs(engine, torch.cat([kept_TD, new_TD]))
    torch.testing.assert_close(output, expected[5:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("position", "bad", "error", "words"),
    [
        (5, rows(1), PositionNotReached, "holds 4 rows"),
        (4, rows(1)[:, :10], BadRows, r"\[T, 64\]"),
        (4, rows(1).double(), BadRows, "float32"),
        (4, torch.full((2, D), float("nan")), BadRows, "2 of 2 rows hold NaN"),
        (4, torch.full((1, D), float("inf")), BadRows, "NaN or infinity"),
        (4, rows(600), ContextExceeded, "limit is 512"),
    ],
)
async def test_refused_rows_leave_the_session_as_it_was(
    engine: Engine, position: int, bad: torch.Tensor, error: type[Exception], words: str
) -> None:
    hidden_TD = rows(5)
    session = engine.open()
    await engine.step(session, 0, hidden_TD[:4])
    with pytest.raises(error, match=words):
        await engine.step(session, position, bad)
    output = (await engine.step(session, 4, hidden_TD[4:])).output
    torch.testing.assert_close(output, (await outputs(engine, hidden_TD))[4:], atol=1e-5, rtol=0)


async def test_a_failure_in_the_middle_of_the_layers_leaves_the_rows_before_it(
    thread: DeviceThread, tiny_weights: Path
) -> None:
    class Broken(Exception):
        pass

    part = load_part(tiny_weights, "1-4")
    engine = build_engine(part, thread)
    hidden_TD = rows(6)
    session = engine.open()
    await engine.step(session, 0, hidden_TD[:4])
    last_layer = part.model.get_submodule(part.layout.layers)[2]

    def fail(*_: object) -> None:
        raise Broken

    hook = last_layer.register_forward_pre_hook(fail)
    with pytest.raises(Broken):
        await engine.step(session, 4, hidden_TD[4:])
    hook.remove()
    assert session.reached == 4
    output = (await engine.step(session, 4, hidden_TD[4:])).output
    torch.testing.assert_close(output, (await outputs(engine, hidden_TD))[4:], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def recurrent(thread: DeviceThread, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = random_model(small_config("mamba2"))
    return build_engine(load_part(save_sepweight(tmp_path_factory.mktemp("mamba2"), model), "2-4"), thread)


async def test_a_session_of_recurrent_layers_restarts_but_is_not_truncated(recurrent: Engine) -> None:
    hidden_TD = rows(8)
    session = recurrent.open()
    await recurrent.step(session, 0, hidden_TD[:5])
    with pytest.raises(PositionNotReached, match="holds 5 rows and cannot go back to 3"):
        await recurrent.step(session, 3, hidden_TD[3:])
    output = (await recurrent.step(session, 5, hidden_TD[5:])).output
    again = (await recurrent.step(session, 0, hidden_TD)).output
    torch.testing.assert_close(output, again[5:], atol=1e-5, rtol=0)
    assert session.reached == 8


async def test_after_a_failure_recurrent_layers_hold_nothing(recurrent: Engine) -> None:
    class Broken(Exception):
        pass

    def fail(*_: object) -> None:
        raise Broken

    hidden_TD = rows(6)
    session = recurrent.open()
    await recurrent.step(session, 0, hidden_TD[:4])
    hook = recurrent.part.model.get_submodule(recurrent.part.layout.layers)[1].register_forward_pre_hook(fail)
    with pytest.raises(Broken):
        await recurrent.step(session, 4, hidden_TD[4:])
    hook.remove()
    assert session.reached == 0
    assert torch.equal((await recurrent.step(session, 0, hidden_TD)).output, await outputs(recurrent, hidden_TD))


def test_memory_that_does_not_hold_a_page_is_refused_at_the_start(thread: DeviceThread, tiny_weights: Path) -> None:
    with pytest.raises(NoRoom, match="100 bytes for keys and values do not hold a single page of 32 rows"):
        build_engine(load_part(tiny_weights, "1-4"), thread, Limits(kv_cache_memory_bytes=100))


async def test_an_idle_session_loses_its_rows_and_may_send_them_again(engine: Engine) -> None:
    hidden_TD = rows(6)
    session = engine.open()
    await engine.step(session, 0, hidden_TD[:5])
    engine.expire(-1.0)
    with pytest.raises(PositionNotReached, match="send everything again from 0"):
        await engine.step(session, 5, hidden_TD[5:])
    again = (await engine.step(session, 0, hidden_TD)).output
    torch.testing.assert_close(again, await outputs(engine, hidden_TD))
    engine.close(session)


async def test_a_session_begins_with_the_rows_that_were_cached_under_the_same_hashes(
    thread: DeviceThread, tiny_weights: Path
) -> None:
    engine = build_engine(load_part(tiny_weights, "1-4"), thread, Limits(block_size=4))
    hidden_TD = rows(11)
    first = engine.open()
    whole = (await engine.step(first, 0, hidden_TD)).output
    engine.close_and_cache(first, [b"a", b"b", b"not whole"])
    second = engine.open(block_hashes=[b"a", b"b", b"other"])
    assert (first.reached, second.reached, engine.n_cached_prefixes) == (11, 8, 1)
    output = (await engine.step(second, 8, hidden_TD[8:])).output
    torch.testing.assert_close(output, whole[8:], atol=1e-5, rtol=0)
    third = engine.open(block_hashes=[b"a", b"c"])
    assert third.reached == 4
    other_TD = torch.cat([hidden_TD[:4], rows(3, seed=5)])
    output = (await engine.step(third, 4, other_TD[4:])).output
    torch.testing.assert_close(output, (await outputs(engine, other_TD))[4:], atol=1e-5, rtol=0)
    assert engine.open(block_hashes=[b"c"]).reached == 0


async def test_postprocess_gets_the_last_rows_of_a_step(thread: DeviceThread, tiny_weights: Path) -> None:
    engine = build_engine(load_part(tiny_weights, "1-4"), thread, Limits(max_num_batched_tokens=4))
    seen: list[tuple[int, str]] = []

    def last_row(output_TD: torch.Tensor) -> torch.Tensor:
        seen.append((output_TD.shape[0], threading.current_thread().name))
        return output_TD[-1]

    step = await engine.step(engine.open(), 0, rows(10), last_row)
    assert torch.equal(step.postprocessed, step.output[-1])
    assert [n_rows for n_rows, _ in seen] == [2]
    assert seen[0][1].startswith("device")


async def test_a_postprocess_that_fails_leaves_the_other_sessions_alone(engine: Engine) -> None:
    def fails(_: torch.Tensor) -> None:
        raise ZeroDivisionError("own")

    session = engine.open()
    failed, other = await asyncio.gather(
        engine.step(session, 0, rows(3), fails), engine.step(engine.open(), 0, rows(3)), return_exceptions=True
    )
    assert isinstance(failed, ZeroDivisionError)
    alone_TD = await outputs(engine, rows(3))
    torch.testing.assert_close(other.output, alone_TD, atol=1e-5, rtol=0)
    assert torch.equal((await engine.step(session, 0, rows(3))).output, alone_TD)


async def test_the_logits_of_all_rows_come_piece_by_piece_and_the_last_rows_are_the_output(
    thread: DeviceThread, tiny_weights: Path
) -> None:
    top = load_part(tiny_weights, "4-5 e")
    engine = build_engine(top, thread, Limits(max_num_batched_tokens=4))
    found: dict[int, torch.Tensor] = {}

    def read(position: int, logits_TV: torch.Tensor) -> None:
        assert threading.current_thread().name.startswith("device")
        found.update({position + i: logits_V.clone() for i, logits_V in enumerate(logits_TV)})

    session = engine.open()
    reader = RowReader("all", read)
    first = await engine.step(session, 0, rows(6), reader=reader)
    second = await engine.step(session, 6, rows(10)[6:], lambda logits_V: int(logits_V.argmax()), reader)
    cache = top.new_cache()
    for i, row_D in enumerate(rows(10)):
        torch.testing.assert_close(found[i], top(row_D[None], i, cache), atol=1e-5, rtol=0)
    assert len(found) == 10
    assert torch.equal(first.output, found[5])
    assert (second.output.shape, second.postprocessed) == (found[9].shape, int(found[9].argmax()))


async def test_hidden_states_come_piece_by_piece_in_steps_in_which_others_get_logits(
    thread: DeviceThread, tiny_weights: Path
) -> None:
    top = load_part(tiny_weights, "4-5 e")
    engine = build_engine(top, thread, Limits(max_num_batched_tokens=4))
    found: dict[int, torch.Tensor] = {}

    def read(position: int, hidden_TD: torch.Tensor) -> None:
        found.update({position + i: hidden_D.clone() for i, hidden_D in enumerate(hidden_TD)})

    reading, other = await asyncio.gather(
        engine.step(engine.open(), 0, rows(6), reader=RowReader("hidden", read)),
        engine.step(engine.open(), 0, rows(3)),
    )
    hidden_TD = top(rows(6), 0, top.new_cache(), wanted="hidden")
    torch.testing.assert_close(torch.stack([found[i] for i in range(6)]), hidden_TD, atol=1e-5, rtol=0)
    assert torch.equal(reading.output, found[5])
    torch.testing.assert_close(other.output, top(rows(3), 0, top.new_cache()), atol=1e-5, rtol=0)


async def test_a_reader_that_fails_leaves_the_other_sessions_alone(thread: DeviceThread, tiny_weights: Path) -> None:
    engine = build_engine(load_part(tiny_weights, "4-5 e"), thread)

    def fails(_: int, __: torch.Tensor) -> None:
        raise ZeroDivisionError("own")

    session = engine.open()
    failed, other = await asyncio.gather(
        engine.step(session, 0, rows(3), reader=RowReader("all", fails)),
        engine.step(engine.open(), 0, rows(3)),
        return_exceptions=True,
    )
    assert isinstance(failed, ZeroDivisionError)
    alone_V = await outputs(engine, rows(3))
    torch.testing.assert_close(other.output, alone_V, atol=1e-5, rtol=0)
    assert torch.equal((await engine.step(session, 0, rows(3))).output, alone_V)


async def test_the_sessions_own_max_length_holds_below_the_context(engine: Engine) -> None:
    session = engine.open(max_length=3)
    with pytest.raises(ContextExceeded, match="limit is 3"):
        await engine.step(session, 0, rows(4))


async def test_reprs_tell_how_full_an_engine_is(thread: DeviceThread, tiny_weights: Path) -> None:
    row_bytes = build_engine(load_part(tiny_weights, "1-4"), thread).row_bytes
    limits = Limits(kv_cache_memory_bytes=4 * 32 * row_bytes, headroom=0)
    engine = build_engine(load_part(tiny_weights, "1-4"), thread, limits)
    first, second = engine.open(), engine.open(max_length=100)
    await engine.step(first, 0, rows(40))
    working = asyncio.create_task(engine.step(first, 40, rows(20)))
    waiting = asyncio.create_task(engine.step(second, 0, rows(100)))
    await asyncio.sleep(0)
    assert repr(engine) == "<Engine 1 running, 1 waiting, 2/4 pages>"
    assert repr(second) == f"<EngineSession {second.number}: 0/100 rows>"
    assert repr(engine.pages) == "<PageAccounting 2/4 pages of 32 rows>"
    await working
    engine.close(first)
    await waiting


def test_the_session_that_its_client_opened_first_is_the_older_one_whichever_the_engine_heard_of_first(
    engine: Engine,
) -> None:
    second, first = engine.open(opened_at=1_000_000.5), engine.open(opened_at=1_000_000.25)
    assert first.number < second.number < engine.open().number < engine.open().number


def test_two_sessions_of_one_time_are_two_sessions(engine: Engine) -> None:
    one, other = engine.open(opened_at=5.0), engine.open(opened_at=5.0)
    assert one.number != other.number
    engine.close(one)
    assert engine.open(opened_at=5.0).number != other.number


@pytest.mark.parametrize("opened_at", [float("nan"), float("inf"), -0.1])
def test_a_session_is_opened_at_some_time(engine: Engine, opened_at: float) -> None:
    with pytest.raises(ValueError, match="a session cannot have been opened at"):
        engine.open(opened_at=opened_at)


@dataclass
class Clock:
    """Stands still unless it is told to go on."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


async def after_some_tokens(engine: Engine, clock: Clock, apart: float = 0.1) -> EngineSession:
    """A session whose next token is expected soon, on an engine that knows how long steps take."""
    session = engine.open()
    await engine.step(session, 0, rows(20))
    for i in range(4):
        await engine.step(session, 20 + i, rows(1))
        clock.now += apart
    await engine.step(session, 24, rows(1))
    return session


async def test_a_session_that_sends_its_prompt_again_does_not_wait_for_its_own_next_token(tiny_weights: Path) -> None:
    clock = Clock()
    with DeviceThread(1) as thread:
        thread.shares_cores = True
        engine = build_engine(load_part(tiny_weights, "1-4"), thread, clock=clock)
        session = await after_some_tokens(engine, clock)
        async with asyncio.timeout(30):
            assert (await engine.step(session, 0, rows(20))).output.shape == (20, D)


async def test_prompts_do_not_wait_for_the_token_of_a_session_that_will_send_its_prompt_again(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    # a token is expected for so long that a prompt which waits for it does not run within the test
    monkeypatch.setattr(batching_policy, "_EXPECTED_WITHIN", 10_000.0)
    with DeviceThread(1) as thread:
        thread.shares_cores = True
        bottom, top = (build_engine(load_part(tiny_weights, spec), thread, clock=clock) for spec in ("1-2", "2-4"))
        sessions = [await after_some_tokens(engine, clock, apart=1_000.0) for engine in (bottom, top)]
        prompt = asyncio.create_task(bottom.step(bottom.open(), 0, rows(20)))
        for _ in range(10):
            # the prompt begins to wait
            await asyncio.sleep(0)
        for engine, session in zip((bottom, top), sessions, strict=True):
            engine.expect_prompt(session)
        async with asyncio.timeout(30):
            await prompt
