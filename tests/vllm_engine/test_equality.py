"""A trunk on vLLM gives what the whole model of Hugging Face has in its place.

Shapes: T rows, D hidden size.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch

from splitlearn.errors import PositionNotReached, SessionClosed
from splitlearn.runner.interface import SequenceInput
from support.sessions import prompt

# biases; experts, which a checkpoint has one by one; norms of queries and keys; windows shorter than the texts; layers
# with and without a window, and rows without a residual
ARCHITECTURES = ("llama", "qwen2", "mixtral", "qwen3_moe", "mistral", "gemma2")
TOLERANCE = 1e-5


def distance(found_TD: torch.Tensor, expected_TD: torch.Tensor) -> float:
    """Of the row that is furthest off, relative to its own length."""
    found_TD, expected_TD = found_TD.float(), expected_TD.float()
    return float(((found_TD - expected_TD).norm(dim=-1) / expected_TD.norm(dim=-1)).max())


class Session:
    """One session's text, the rows that go in, and those that came out."""

    def __init__(self, served: Any, ids_T: torch.Tensor) -> None:
        self.served, self.ids_T = served, ids_T
        self.kv = served.runner.new_kv(None)
        self.rows_TD = served.rows(ids_T)
        self.expected_TD = served.expected(ids_T)
        self.n_rows = 0

    def input(self, count: int) -> SequenceInput[Any]:
        start, self.n_rows = self.n_rows, self.n_rows + count
        return SequenceInput(self.kv, start, self.rows_TD[start : self.n_rows])

    def off(self, output_TD: torch.Tensor) -> float:
        """How far the last output is off."""
        return distance(output_TD, self.expected_TD[self.n_rows - output_TD.shape[0] : self.n_rows])

    def truncate(self, position: int) -> None:
        self.served.runner.truncate(self.kv, position)
        self.n_rows = position


def step(counts: dict[Session, int]) -> float:
    """Runs so many rows of each; how far the worst of all is off."""
    inputs = [session.input(count) for session, count in counts.items()]
    outputs = next(iter(counts)).served.runner.run(inputs)
    return max(session.off(output) for session, output in zip(counts, outputs, strict=True))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def trunk(request: pytest.FixtureRequest, served: Callable[..., Any]) -> Any:
    return served(request.param)


@pytest.fixture
def session(trunk: Any) -> Any:
    made = []

    def make(length: int) -> Session:
        made.append(Session(trunk, prompt(length)))
        return made[-1]

    yield make
    for each in made:
        trunk.runner.release(each.kv)
    trunk.runner._pool.collect()
    assert trunk.runner._pool.n_free == trunk.runner._pool.total


def test_a_prompt_and_the_tokens_behind_it(session: Callable[[int], Session]) -> None:
    one = session(80)
    assert step({one: 60}) < TOLERANCE
    for _ in range(20):
        assert step({one: 1}) < TOLERANCE


def test_prompts_in_chunks_beside_sessions_that_decode_or_are_left_out(session: Callable[[int], Session]) -> None:
    first, second, third = session(90), session(70), session(40)
    worst = [step({first: 33}), step({first: 1, second: 20}), step({second: 31, third: 5, first: 1})]
    worst += [step({third: 1}), step({third: 1, first: 40}), step({second: 1, third: 1, first: 1})]
    worst += [step({first: 1}), step({second: 7, first: 1}), step({third: 30, second: 1})]
    assert max(worst) < TOLERANCE


def test_more_rows_and_sessions_than_one_forward_takes(session: Callable[[int], Session]) -> None:
    sessions = [session(length) for length in range(20, 50, 2)]
    assert step({each: each.ids_T.shape[0] - 1 for each in sessions}) < TOLERANCE
    assert step(dict.fromkeys(sessions, 1)) < TOLERANCE


@pytest.mark.parametrize("position", [0, 1, 31, 32, 33, 69])
def test_a_session_that_goes_back(session: Callable[[int], Session], position: int) -> None:
    one, other = session(80), session(60)
    step({one: 70, other: 10})
    # what is dropped was another text
    one.ids_T = torch.cat([one.ids_T[:position], prompt(81)[position:80]])
    one.rows_TD, one.expected_TD = one.served.rows(one.ids_T), one.served.expected(one.ids_T)
    one.truncate(position)
    worst = [step({one: 5, other: 1})] + [step({one: 1, other: 1}) for _ in range(3)]
    assert max(worst) < TOLERANCE


@pytest.mark.parametrize("shared", [32, 64, 40])
def test_a_session_that_begins_with_the_rows_of_another(session: Callable[[int], Session], shared: int) -> None:
    cached = session(90)
    step({cached: 75})
    runner = cached.served.runner
    runner.release(cached.kv, 70)
    sharing, same = session(90), session(80)
    # both begin as the cached one; one of them goes on differently
    same.ids_T = torch.cat([cached.ids_T[:shared], same.ids_T[shared:]])
    same.rows_TD, same.expected_TD = same.served.rows(same.ids_T), same.served.expected(same.ids_T)
    for each in (sharing, same):
        each.kv = runner.copy_prefix(each.kv, cached.kv, shared)
        each.n_rows = shared
    assert step({sharing: 3, same: 9}) < TOLERANCE
    assert step({sharing: 1, same: 1}) < TOLERANCE
    with pytest.raises(SessionClosed):
        runner.run([cached.input(1)])
    with pytest.raises(PositionNotReached):
        runner.copy_prefix(runner.new_kv(None), cached.kv, 71)


def test_sessions_that_come_go_and_go_back_at_random(session: Callable[[int], Session]) -> None:
    random, open_sessions, worst = Random(5), [], []
    for _ in range(60):
        if len(open_sessions) < 6 and random.random() < 0.4:
            open_sessions.append(session(90))
        if open_sessions and random.random() < 0.1:
            left = open_sessions.pop(random.randrange(len(open_sessions)))
            left.served.runner.release(left.kv)
        counts = {}
        for each in open_sessions:
            if random.random() < 0.25 or each.n_rows > 60:
                each.truncate(random.choice([0, each.n_rows, random.randint(0, each.n_rows)]))
            if each.n_rows <= 60 and random.random() < 0.7:
                counts[each] = random.choice([1, 1, 1, 2, 8, 29])
        if counts:
            worst.append(step(counts))
    assert len(worst) > 30
    assert max(worst) < TOLERANCE


def test_rows_that_are_missing_would_be_seen(session: Callable[[int], Session]) -> None:
    one = session(40)
    lacking = one.served.runner.new_kv(None)
    (output_TD,) = one.served.runner.run([SequenceInput(lacking, 0, one.rows_TD[1:])])
    one.served.runner.release(lacking)
    assert distance(output_TD, one.expected_TD[1:]) > 1000 * TOLERANCE


def test_in_bfloat16_it_is_no_further_from_the_exact_model_than_hugging_face_is(served: Callable[..., Any]) -> None:
    exact = served("llama", "bfloat16")
    rounded = Session(exact, prompt(70))
    (output_TD,) = exact.runner.run([rounded.input(70)])
    exact.model.float()
    exact_TD = exact.expected(rounded.ids_T)
    assert distance(output_TD, exact_TD) < 2 * distance(rounded.expected_TD, exact_TD)


def test_two_processes_that_share_each_layer(served: Callable[..., Any]) -> None:
    parallel = served("llama", n_workers=2)
    first, second = Session(parallel, prompt(70)), Session(parallel, prompt(50))
    worst = [step({first: 40, second: 10}), step({first: 1, second: 20}), step({first: 1, second: 1})]
    first.truncate(20)
    worst += [step({first: 12}), step({second: 1, first: 1})]
    cached = second.kv
    parallel.runner.release(cached, 32)
    third = Session(parallel, prompt(50))
    third.kv, third.n_rows = parallel.runner.copy_prefix(third.kv, cached, 20), 20
    worst.append(step({third: 5, first: 1}))
    assert max(worst) < TOLERANCE
