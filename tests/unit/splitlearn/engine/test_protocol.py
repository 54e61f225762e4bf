"""Every order of what an engine can be asked, against a model of it in plain Python.

The model knows which rows each session holds and under which names rows were kept. What comes out is compared to the
same rows alone. Memory in which no row of a session was written holds NaN.

Shapes: T rows, D hidden size.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import EngineSession, Limits
from splitlearn.errors import BadRows, ContextExceeded, PositionNotReached, SessionClosed
from splitlearn.model.part import Part
from support.poison import poisoned_paged_runner, poisoned_runner
from support.schedules import BAD_ROW, ExactRunner, ScheduledLoop, ScheduledThread, exact_outputs, exact_part, rows_of

LIMIT, BLOCK_ROWS, N_PAGES = 24, 4, 9
FIRST = int(os.environ.get("SPLITLEARN_FIRST_SCHEDULE", "0"))
"""The first seed."""

SEEN = "reused", "left", "lost", "waited", "ended", "row", "nan", "then"
"""What must have happened at least once in a run that proves anything."""

Rows = tuple[int, ...]

counts = st.integers(1, 10)
texts = st.integers(0, 2)
# as honest clients give them; and made up
chains = st.integers(1, 5).map(lambda n: [b"a", b"b", b"c", b"d", b"e"][:n])
names = st.one_of(chains, st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=5))
turns = st.integers(0, 30)


@dataclass(eq=False)
class Known:
    """What the model knows of a session: the rows that it may hold, as numbers; more than one where names collided."""

    session: EngineSession
    may_hold: list[Rows]
    is_open: bool = True


@dataclass
class Subject:
    """What is tested: an engine's part and runner, rows for numbers, and what comes out for them alone."""

    part: Any
    runner: Callable[..., Any]
    rows: Callable[[Sequence[int]], torch.Tensor]
    alone: Callable[[Rows], torch.Tensor]
    tolerance: float = 0.0
    seen: dict[str, int] = field(default_factory=dict)


class Protocol(RuleBasedStateMachine):
    """Rows are numbers: 100 times the text that they are of, and where they are in it."""

    subject: ClassVar[Subject]
    opened = Bundle("opened")

    def __init__(self) -> None:
        super().__init__()
        self.loop = ScheduledLoop()
        self.kept: dict[tuple[bytes, ...], list[Rows]] = {}
        limits = Limits(
            page_size=4, block_size=BLOCK_ROWS, headroom=0, max_cached_prefixes=2, max_num_batched_tokens=16
        )
        thread = ScheduledThread(Random(0))
        subject = self.subject
        self.engine = build_engine(subject.part, thread, limits, runner=subject.runner, clock=self.loop.time)

    def teardown(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(1))
        assert self.engine.pages.check_consistency() is None
        assert not self.loop.complaints
        self.loop.close()

    @rule(target=opened, prefix=names)
    def open(self, prefix: list[bytes]) -> Known:
        session = self.engine.open(LIMIT, prefix)
        n_blocks = -(-session.reached // BLOCK_ROWS)
        # never more than somebody has kept under just these names
        may_hold = self.kept[tuple(prefix[:n_blocks])] if n_blocks else [()]
        self._count("reused", bool(n_blocks))
        return Known(session, [rows[: session.reached] for rows in may_hold])

    @rule(target=opened, text=texts, under=chains)
    def keep_one_and_begin_with_it(self, text: int, under: list[bytes]) -> Known:
        known = Known(self.engine.open(LIMIT), [()])
        self._ask(known, 0, 18, text, self._run(self._stepped(known, 0, 18, text)))
        self.keep(known, under)
        return self.open(under)

    @rule(known=opened, back=st.integers(-2, 9), n=counts, text=texts)
    def step(self, known: Known, back: int, n: int, text: int) -> None:
        position = max(0, known.session.reached - back)
        self._ask(known, position, n, text, self._run(self._stepped(known, position, n, text)))

    @rule(known=opened, text=texts, n=counts)
    def begin_again(self, known: Known, text: int, n: int) -> None:
        self._ask(known, 0, n, text, self._run(self._stepped(known, 0, n, text)))

    @rule(known=opened, other=opened, n=counts, text=texts, fault=st.sampled_from(["row", "nan", "then"]))
    def step_beside_one_that_fails(self, known: Known, other: Known, n: int, text: int, fault: str) -> None:
        if known is other or not other.is_open:
            return
        position, wrong = known.session.reached, other.session.reached
        bad = self.subject.rows(_numbers(2, wrong, 1))
        bad[-1] = float("nan") if fault == "nan" else BAD_ROW if fault == "row" else bad[-1]
        postprocess = _fails if fault == "then" else None

        async def both() -> list[Any]:
            asked = (self._stepped(known, position, n, text), self.engine.step(other.session, wrong, bad, postprocess))
            return await asyncio.gather(*asked, return_exceptions=True)

        found, failed = self._drive(both())
        self._ask(known, position, n, text, found)
        expected = {"row": RuntimeError, "nan": BadRows, "then": ZeroDivisionError}[fault]
        assert isinstance(failed, (expected, ContextExceeded, PositionNotReached)), failed
        self._count(fault, isinstance(failed, expected))
        self._look_again(other)

    @rule(known=opened, back=st.integers(0, 9))
    def truncate(self, known: Known, back: int) -> None:
        position = max(0, known.session.reached - back)
        found = self._run(self.engine.step(known.session, position, self.subject.rows([])))
        if known.is_open and not isinstance(found, PositionNotReached):
            known.may_hold = [rows[:position] for rows in known.may_hold]

    @rule(known=opened, n=counts, text=texts, turn=turns, back=st.integers(0, 4))
    def leave_in_the_middle(self, known: Known, n: int, text: int, turn: int, back: int) -> None:
        position = max(0, known.session.reached - back)
        before = known.may_hold

        async def cancelled() -> Any:
            asking = asyncio.create_task(self._stepped(known, position, n, text))
            self.loop.before[self.loop.turn + 1 + turn] = [asking.cancel]
            return (await asyncio.gather(asking, return_exceptions=True))[0]

        found = self._drive(cancelled())
        self.loop.before.clear()
        self._count("left", isinstance(found, asyncio.CancelledError))
        if not isinstance(found, asyncio.CancelledError):
            self._ask(known, position, n, text, found)
        elif known.session.reached == position + n:
            # as before, where it had not begun; or all of it
            known.may_hold = [*before, *(rows[:position] + _numbers(text, position, n) for rows in before)]
            known.may_hold = [rows for rows in known.may_hold if len(rows) >= position + n]
        self._look_again(known)

    @rule(known=consumes(opened), n=counts, turn=turns, keeps=st.booleans(), other=opened)
    def end_in_the_middle(self, known: Known, n: int, turn: int, keeps: bool, other: Known) -> None:
        position, wanted = known.session.reached, other.session.reached

        async def ended() -> list[Any]:
            asked = (self._stepped(known, position, n, 1), self._stepped(other, wanted, n, 2))
            asking = [asyncio.ensure_future(each) for each in asked[: 1 + (known is not other)]]

            def end() -> None:
                if asking[0].done():
                    self._ask(known, position, n, 1, asking[0].exception() or asking[0].result())
                if keeps:
                    self._note_kept(known, [b"a", b"c"])
                    self.engine.close_and_cache(known.session, [b"a", b"c"])
                else:
                    self.engine.close(known.session)

            if known.is_open:
                self.loop.before[self.loop.turn + 1 + turn] = [end]
            return await asyncio.gather(*asking, return_exceptions=True)

        found = self._drive(ended())
        self.loop.before.clear()
        self._count("ended", isinstance(found[0], SessionClosed))
        if known is not other:
            self._ask(other, wanted, n, 2, found[1])
        self.engine.close(known.session)
        known.is_open = False

    @rule(known=opened, under=names)
    def keep(self, known: Known, under: list[bytes]) -> None:
        if not known.is_open:
            with pytest.raises(SessionClosed):
                self.engine.close_and_cache(known.session, under)
            return
        self._note_kept(known, under)
        self.engine.close_and_cache(known.session, under)
        known.is_open = False

    @rule(known=opened)
    def close(self, known: Known) -> None:
        self.engine.close(known.session)
        known.is_open = False

    @rule()
    def expire(self) -> None:
        self.engine.expire(-1.0)

    @invariant()
    def pages_add_up(self) -> None:
        assert self.engine.pages.check_consistency() is None
        assert self.engine.n_waiting == 0

    def _note_kept(self, known: Known, under: list[bytes]) -> None:
        for n_blocks in range(1, 1 + min(len(under), known.session.reached // BLOCK_ROWS)):
            rows = [rows[: n_blocks * BLOCK_ROWS] for rows in known.may_hold]
            self.kept.setdefault(tuple(under[:n_blocks]), []).extend(rows)

    async def _stepped(self, known: Known, position: int, n: int, text: int) -> Any:
        return await self.engine.step(known.session, position, self.subject.rows(_numbers(text, position, n)))

    def _run(self, step: Coroutine[Any, Any, Any]) -> Any:
        return self._drive(_outcome(step))

    def _drive(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def patiently() -> Any:
            working = asyncio.ensure_future(work)
            for _ in range(30):
                if (await asyncio.wait({working}, timeout=1.0))[0]:
                    return working.result()
                # those who wait for room get that of older ones, when these have been idle for long
                self._count("waited", True)
            raise AssertionError("somebody waits for ever")

        return self.loop.run_until_complete(patiently())

    def _ask(self, known: Known, position: int, n: int, text: int, found: Any) -> None:
        """Compares what a step gave to what it should have."""
        session = known.session
        if not known.is_open:
            assert isinstance(found, SessionClosed), found
            return
        if isinstance(found, ContextExceeded):
            assert position + n > LIMIT
        elif isinstance(found, PositionNotReached):
            held = max(map(len, known.may_hold))
            self._count("lost", position <= held)
            assert position > held or session.lost_pages
        else:
            assert not isinstance(found, BaseException), found
            texts = [rows[:position] + _numbers(text, position, n) for rows in known.may_hold]
            known.may_hold = [rows for rows in texts if self._came_of(rows, position, found.output)]
            assert known.may_hold, "rows came out that no session has sent"
        self._look_again(known)

    def _came_of(self, rows: Rows, position: int, output: torch.Tensor) -> bool:
        expected = self.subject.alone(rows)[position:]
        return torch.allclose(output, expected, rtol=0, atol=self.subject.tolerance)

    def _look_again(self, known: Known) -> None:
        reached = known.session.reached
        assert reached <= max(map(len, known.may_hold))
        known.may_hold = [rows[:reached] for rows in known.may_hold]

    def _count(self, what: str, happened: bool) -> None:
        self.subject.seen[what] = self.subject.seen.get(what, 0) + happened


def _numbers(text: int, position: int, n: int) -> Rows:
    return tuple(100 * text + i for i in range(position, position + n))


def _fails(_: torch.Tensor) -> None:
    raise ZeroDivisionError


async def _outcome(step: Coroutine[Any, Any, Any]) -> Any:
    return (await asyncio.gather(step, return_exceptions=True))[0]


def fail_at(part: Part, number: float) -> None:
    """Lets the last layer fail when rows of this number have entered the first."""
    layers, bad = part.model.get_submodule(part.layout.layers), [False]

    def look(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        bad[0] = bool((args[0] == number).all(dim=-1).any())

    def fail(*_: Any) -> None:
        if bad[0]:
            raise RuntimeError("a bad row")

    layers[0].register_forward_pre_hook(look)
    layers[-1].register_forward_pre_hook(fail)


def hold(subject: Subject, n_examples: int, n_steps: int, number: int = 0) -> None:
    machine = seed(FIRST + number)(type("Machine", (Protocol,), {"subject": subject}))
    checked = settings(
        max_examples=n_examples,
        stateful_step_count=n_steps,
        deadline=None,
        derandomize=False,
        print_blob=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    print(f"seed {FIRST + number}")
    run_state_machine_as_test(machine, settings=checked)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("is_batched", [True, False])
def test_any_order_of_requests_gives_what_its_rows_give_alone(is_batched: bool) -> None:
    subject = Subject(
        exact_part(),
        lambda *_: ExactRunner(N_PAGES, is_batched=is_batched),
        lambda numbers: rows_of([float(number) for number in numbers]),
        lambda rows: torch.tensor(exact_outputs(rows))[:, None],
    )
    # what is rare may be missing in one round; missing in ten means that it cannot come
    for number in range(10):
        hold(subject, 60, 30, number)
        if all(subject.seen.get(what) for what in SEEN):
            return
    raise AssertionError(subject.seen)


@pytest.mark.parametrize("in_pages", [False, True])
def test_any_order_of_requests_gives_what_its_rows_give_alone_in_a_model(in_pages: bool, tiny_weights: Path) -> None:
    part = load_part(tiny_weights, "1-3")
    rows_TD = torch.randn(300, part.hidden_size, generator=torch.Generator().manual_seed(0))
    known: dict[Rows, torch.Tensor] = {}
    reference = load_part(tiny_weights, "1-3")

    def alone(rows: Rows) -> torch.Tensor:
        if rows not in known:
            known[rows] = reference(rows_TD[list(rows)], 0, reference.new_cache())
        return known[rows]

    def runner(given: Any, _: int | None) -> Any:
        if in_pages:
            return poisoned_paged_runner(given, n_pages=N_PAGES)
        row_bytes = poisoned_runner(given).row_bytes
        return poisoned_runner(given, N_PAGES * 4 * row_bytes)

    fail_at(part, BAD_ROW)
    hold(Subject(part, runner, lambda numbers: rows_TD[list(numbers)].clone(), alone, 1e-5), 20, 30)
