"""Many sessions through three engines, as client and trunk run them, say what each of them says alone.

Memory holds NaN wherever no row of a session was written: whoever reads there says something else.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from splitlearn.build import build_engine
from splitlearn.engine import DeviceThread, Limits, NoObserver
from splitlearn.engine.scheduler import MAX_DECODE_ROWS
from splitlearn.errors import PositionNotReached
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from support.poison import poisoned_paged_runner, poisoned_runner
from support.sessions import Whole, decode, load_parts, prompt
from support.tiny_models import N_LAYERS, random_model, save_sepweight, tiny_config

# falcon attends session by session, the others in batches; their windows are shorter than the texts
ARCHITECTURES = ("llama", "gemma2", "mistral", "mixtral", "gpt2", "falcon")
LENGTHS = (5, 33, 1, 70, 18, 2, 41, 9, 3, 25, 56, 12, 7, 30, 4, 64)
NEW_TOKENS = 8


@dataclass
class Seen(NoObserver):
    """Counts what an engine tells."""

    steps: list[tuple[int, int]] = field(default_factory=list)
    n_preempted: int = 0

    def step_done(self, n_sessions: int, n_rows: int, seconds: float) -> None:
        self.steps.append((n_sessions, n_rows))

    def preempted(self) -> None:
        self.n_preempted += 1


class Trio:
    """Bottom, trunk and top on one device thread."""

    def __init__(
        self,
        parts: list[Part],
        thread: DeviceThread,
        limits: Limits,
        kv_rows: tuple[int, ...] = (),
        runner: Callable[[Part, int | None], Any] = poisoned_runner,
    ) -> None:
        self.seen = [Seen() for _ in parts]
        self.engines = []
        for part, seen, n_rows in zip_longest(parts, self.seen, kv_rows):
            budget = None if n_rows is None else n_rows * build_engine(part, thread).row_bytes
            self.engines.append(build_engine(part, thread, replace(limits, kv_cache_memory_bytes=budget), seen, runner))
        self.n_replays = 0

    async def generate(self, ids_T: torch.Tensor) -> list[int]:
        """Greedy tokens. Whoever loses its pages sends everything again."""
        sessions = [engine.open(ids_T.shape[0] + NEW_TOKENS) for engine in self.engines]
        text_T, position = ids_T, 0
        while text_T.shape[0] < ids_T.shape[0] + NEW_TOKENS:
            rows = text_T[position:]
            try:
                for engine, session in zip(self.engines, sessions, strict=True):
                    rows = (await engine.step(session, position, rows)).output
            except PositionNotReached:
                self.n_replays += 1
                position = 0
                continue
            position = text_T.shape[0]
            text_T = torch.cat([text_T, rows.argmax()[None]])
        for engine, session in zip(self.engines, sessions, strict=True):
            engine.close(session)
        return text_T[ids_T.shape[0] :].tolist()

    async def together(self, prompts: list[torch.Tensor]) -> list[list[int]]:
        tokens = await asyncio.gather(*(self.generate(ids_T) for ids_T in prompts))
        for engine in self.engines:
            assert engine.pages.used == 0
            assert engine.pages.check_consistency() is None
        return tokens


@dataclass(frozen=True)
class Case:
    """One architecture: its parts, and what the whole model says to each prompt."""

    parts: list[Part]
    thread: DeviceThread
    prompts: list[torch.Tensor]
    expected: list[list[int]]

    def trio(self, *, kv_rows: tuple[int, ...] = (), **limits: int) -> Trio:
        return Trio(self.parts, self.thread, Limits(**limits), kv_rows)

    def trio_in_pages(self, *, kv_rows: tuple[int, ...] = (), **limits: int) -> Trio:
        """As on a CUDA device, with what stands for one."""
        runner = partial(poisoned_paged_runner, n_pages=400)
        return Trio(self.parts, self.thread, Limits(**limits), kv_rows, runner)


@pytest.fixture(scope="module")
def thread() -> Iterator[DeviceThread]:
    with DeviceThread(1) as thread:
        yield thread


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, thread: DeviceThread) -> Case:
    model: PreTrainedModel = random_model(tiny_config(request.param))
    weights = save_sepweight(tmp_path_factory.mktemp(request.param), model)
    prompts = [prompt(length) for length in LENGTHS]
    expected = []
    for ids_T in prompts:
        whole = Whole(model)
        expected.append(decode(whole, whole.append(ids_T), NEW_TOKENS)[0])
    return Case(load_parts(weights, SplitPlan(1, 3, N_LAYERS)), thread, prompts, expected)


async def test_each_session_alone_says_what_the_whole_model_says(case: Case) -> None:
    trio = case.trio()
    assert [await trio.generate(ids_T) for ids_T in case.prompts] == case.expected


@pytest.mark.parametrize("n_sessions", [1, 3, 16])
async def test_sessions_at_once_say_what_each_says_alone(case: Case, n_sessions: int) -> None:
    trio = case.trio()
    assert await trio.together(case.prompts[:n_sessions]) == case.expected[:n_sessions]
    assert max(together for seen in trio.seen for together, _ in seen.steps) == n_sessions  # they did share steps


async def test_prompts_in_many_slices_say_the_same(case: Case) -> None:
    trio = case.trio(max_num_batched_tokens=6)
    assert await trio.together(case.prompts) == case.expected
    in_slices = sum(length for length in LENGTHS if length > MAX_DECODE_ROWS)
    assert all(len(seen.steps) >= in_slices / 6 for seen in trio.seen)


async def test_sessions_that_come_and_go_say_the_same(case: Case) -> None:
    trio = case.trio(max_num_seqs=3)

    async def one_after_the_other(first: int) -> list[list[int]]:
        return [await trio.generate(ids_T) for ids_T in case.prompts[first::5]]

    tokens = await asyncio.gather(*(one_after_the_other(i) for i in range(5)))
    assert list(tokens) == [case.expected[i::5] for i in range(5)]


# also such that sessions wait in one engine for pages of those who wait in another for theirs
@pytest.mark.parametrize("kv_rows", [(160, 160, 160), (120, 100, 120), (1000, 84, 1000)])
async def test_sessions_that_lose_their_pages_send_everything_again_and_say_the_same(
    case: Case, kv_rows: tuple[int, ...]
) -> None:
    trio = case.trio(kv_rows=kv_rows, page_size=4, headroom=0)
    assert await trio.together(case.prompts) == case.expected
    assert sum(seen.n_preempted for seen in trio.seen) > 0
    assert trio.n_replays > 0


# as on a CUDA device: one pool of pages, and tokens from graphs
@pytest.mark.parametrize("n_sessions", [1, 3, 16])
async def test_sessions_in_pages_say_what_each_says_alone(case: Case, n_sessions: int) -> None:
    trio = case.trio_in_pages()
    assert await trio.together(case.prompts[:n_sessions]) == case.expected[:n_sessions]


async def test_prompts_in_many_slices_say_the_same_in_pages(case: Case) -> None:
    assert await case.trio_in_pages(max_num_batched_tokens=6).together(case.prompts) == case.expected


@pytest.mark.parametrize("kv_rows", [(160, 160, 160), (120, 100, 120), (1000, 84, 1000)])
async def test_sessions_that_lose_their_pages_in_a_pool_say_the_same(case: Case, kv_rows: tuple[int, ...]) -> None:
    trio = case.trio_in_pages(kv_rows=kv_rows, page_size=4, headroom=0)
    assert await trio.together(case.prompts) == case.expected
    assert sum(seen.n_preempted for seen in trio.seen) > 0
    assert trio.n_replays > 0
