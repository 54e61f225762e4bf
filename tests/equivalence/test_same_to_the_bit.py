"""A row's bits do not depend on how its prompt was cut, reused or sent again, or on who shares the steps.

Through three engines, as client and trunk run them, in bf16, int8 and int4, over more rows than attention takes at a
time. The seed of a failure is in the test's name.

Shapes: T rows, D hidden size, V vocabulary.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING

from splitlearn.backends.cpu.kernels import kernels
from splitlearn.backends.cpu.packing import pack
from splitlearn.build import build_engine
from splitlearn.engine import DeviceThread, Engine, Limits
from splitlearn.errors import PositionNotReached
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from splitlearn.runner.select import runner_for
from support.sessions import load_parts
from support.tiny_models import N_LAYERS, VOCABULARY, random_model, save_sepweight

pytestmark = pytest.mark.skipif(kernels() is None, reason="no C compiler at installation, or no AVX-512 with VNNI")

LENGTH = 640
# a slice_ ends here in every run, so that logits can be compared: where attention begins a tile, and around
ENDS = (1, 300, 511, 512, 513, LENGTH)
BLOCK = 32
PIECES = (1, 1, 1, 2, 8, 9, 40, 100)
SEEDS = range(FIRST := int(os.environ.get("SPLITLEARN_FIRST_SCHEDULE", "0")), FIRST + 1)
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 2048,
}
# keys shared by two heads; by seven, and biases; capped scores, a window, GELU, norms around; longer windows, norms of
# heads, and keys shared by all
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"hidden_size": 112, "num_attention_heads": 14, "head_dim": 8},
    "gemma2": {"sliding_window": 100},
    "gemma3_text": {"sliding_window": 530, "num_key_value_heads": 1},
}


@dataclass
class Run:
    """What came out of the engines for one text, and what they keep of it.

    Attributes:
        hidden: of bottom and trunk, [T, D].
        logits: of the top, by how many rows it then held, [V].
        kept: keys and values of all layers.
    """

    hidden: list[torch.Tensor]
    logits: dict[int, torch.Tensor]
    kept: list[torch.Tensor]


class Session:
    """One text in all engines, and what came of it."""

    def __init__(self, engines: Sequence[Engine], ids_T: torch.Tensor, names: Sequence[bytes] = ()) -> None:
        self._engines, self._ids_T = engines, ids_T
        self._sessions = [engine.open(ids_T.shape[0], names) for engine in engines]
        self._hidden: list[dict[int, torch.Tensor]] = [{}, {}]
        self._logits: dict[int, torch.Tensor] = {}
        self.reached = min(session.reached for session in self._sessions)
        self.n_replays = 0

    async def append(self, count: int) -> None:
        """The next rows; back to the beginning where an engine has lost what it held."""
        position = self.reached
        rows = self._ids_T[position : position + count]
        try:
            for index, (engine, session) in enumerate(zip(self._engines, self._sessions, strict=True)):
                rows = (await engine.step(session, position, rows)).output
                if index < len(self._hidden):
                    self._hidden[index].update(enumerate(rows, position))
        except PositionNotReached:
            self.reached, self.n_replays = 0, self.n_replays + 1
            return
        self.reached = position + count
        self._logits[self.reached] = rows

    async def append_in_pieces(self, dice: random.Random, until: int) -> None:
        """Random pieces, of which some are sent twice, or from further back."""
        while self.reached < until:
            end = next(each for each in (*ENDS, until) if each > self.reached)
            await self.append(min(dice.choice(PIECES), end - self.reached))
            if self.reached and self.reached < until and dice.random() < 0.1:
                self.reached = max(1, self.reached - dice.choice((1, 5, 90)))

    def run(self) -> Run:
        hidden = [torch.stack([rows[i] for i in sorted(rows)]) for rows in self._hidden]
        views = [view for session in self._sessions for view in session.kv.views(0, session.kv.n_rows)]
        return Run(hidden, self._logits, [view.clone() for view in views])

    def close(self, names: Sequence[bytes] = ()) -> None:
        for engine, session in zip(self._engines, self._sessions, strict=True):
            engine.close_and_cache(session, names)


@dataclass(frozen=True)
class Case:
    parts: list[Part]
    thread: DeviceThread
    ids_T: torch.Tensor  # noqa: N815 - a shape

    async def engines(self, kv_rows: int | None = None, **limits: int) -> list[Engine]:
        """With room for so many rows. Made on the device thread, which may still run what nobody waits for any more."""

        def made() -> list[Engine]:
            budgets = [None if kv_rows is None else kv_rows * runner_for(part).row_bytes for part in self.parts]
            return [
                build_engine(part, self.thread, Limits(kv_cache_memory_bytes=budget, block_size=BLOCK, **limits))
                for part, budget in zip(self.parts, budgets, strict=True)
            ]

        return (await self.thread.run(made))[0]

    async def whole(self) -> Run:
        """In as few pieces as logits are compared at, alone."""
        session = Session(await self.engines(max_num_batched_tokens=LENGTH), self.ids_T)
        await session.append(LENGTH)
        run = session.run()
        session.close()
        by_ends = Session(await self.engines(max_num_batched_tokens=LENGTH), self.ids_T)
        for end in ENDS:
            await by_ends.append(end - by_ends.reached)
        again = by_ends.run()
        check(again, run)
        by_ends.close()
        return Run(run.hidden, again.logits, run.kept)


def text(seed: int, length: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed))


def names_of(ids_T: torch.Tensor) -> list[bytes]:
    blocks = ids_T[: ids_T.shape[0] // BLOCK * BLOCK].split(BLOCK)
    return [bytes(str(torch.cat(blocks[: i + 1]).tolist()), "ascii") for i in range(len(blocks))]


def check(found: Run, expected: Run) -> None:
    """Whether both are the same to the bit, as far as both have it."""
    for name, ours, theirs in (("hidden", found.hidden, expected.hidden), ("kept", found.kept, expected.kept)):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            dim = 0 if name == "hidden" else 1
            n_rows = one.shape[dim]
            is_same = one == other.narrow(dim, other.shape[dim] - n_rows, n_rows)
            wrong = (~is_same).transpose(0, dim).flatten(1).any(1).nonzero().flatten().tolist()
            assert not wrong, f"{name} {index}: rows {wrong[:9]} of {n_rows} differ"
    for end in found.logits.keys() & expected.logits.keys():
        assert torch.equal(found.logits[end], expected.logits[end]), f"logits after {end} rows"


async def neighbours(engines: Sequence[Engine], dice: random.Random) -> None:
    """Sessions that come and go, until this is cancelled."""
    while True:
        length = dice.choice((5, 30, 120))
        session = Session(engines, text(dice.randrange(99), length))
        while session.reached < length:
            await session.append(min(dice.choice(PIECES), length - session.reached))
        session.close()


@asynccontextmanager
async def beside_others(engines: Sequence[Engine], dice: random.Random) -> AsyncIterator[None]:
    others = [asyncio.create_task(neighbours(engines, dice)) for _ in range(dice.randint(1, 4))]
    yield
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@pytest.fixture(scope="module")
def thread() -> Iterator[DeviceThread]:
    # two threads, so that they share what can be shared
    with DeviceThread(2) as thread:
        yield thread


@pytest.fixture(
    scope="module", params=[(name, weights) for name in MODELS for weights in ("none", "int8", "int4")], ids="-".join
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, thread: DeviceThread) -> Case:
    name, quantization = request.param
    model = random_model(CONFIG_MAPPING[name](**{**SMALL, **MODELS[name]})).bfloat16()
    weights = save_sepweight(tmp_path_factory.mktemp(name), model, chat=False, dtype="bfloat16")
    parts = load_parts(weights, SplitPlan(1, 3, N_LAYERS))
    for part in parts:
        pack(part, quantization)
    return Case(parts, thread, text(0, LENGTH))


@pytest.fixture(scope="module")
def whole(case: Case) -> Run:
    return asyncio.run(case.whole())


@pytest.mark.parametrize("seed", SEEDS)
async def test_in_any_pieces_beside_any_others(case: Case, whole: Run, seed: int) -> None:
    dice = random.Random(seed)
    engines = await case.engines(max_num_batched_tokens=dice.choice((16, 33, 200, LENGTH)))
    async with beside_others(engines, dice):
        session = Session(engines, case.ids_T)
        await session.append_in_pieces(dice, LENGTH)
    check(session.run(), whole)


@pytest.mark.parametrize("seed", SEEDS)
async def test_behind_rows_that_another_session_left(case: Case, whole: Run, seed: int) -> None:
    dice = random.Random(seed)
    engines = await case.engines(max_num_batched_tokens=dice.choice((16, 200)))
    shared = dice.choice((40, 500, 530, 600))
    first = Session(engines, torch.cat([case.ids_T[:shared], text(1, 50)]))
    await first.append_in_pieces(dice, shared + 50)
    first.close(names_of(case.ids_T[:shared]))
    session = Session(engines, case.ids_T, names_of(case.ids_T))
    assert session.reached == shared // BLOCK * BLOCK
    await session.append_in_pieces(dice, LENGTH)
    check(session.run(), whole)


@pytest.mark.parametrize("seed", SEEDS)
async def test_after_losing_its_pages(case: Case, whole: Run, seed: int) -> None:
    dice = random.Random(seed)
    engines = await case.engines(kv_rows=LENGTH + 100, max_num_batched_tokens=200, max_cached_prefixes=0)
    older = Session(engines, text(1, LENGTH))
    await older.append(1)
    session = Session(engines, case.ids_T)
    await session.append_in_pieces(dice, 400)
    await older.append_in_pieces(dice, 400)
    older.close()
    await session.append_in_pieces(dice, LENGTH)
    assert session.n_replays == 1
    check(session.run(), whole)
