from random import Random

import pytest
import torch

from llm_sepweight import PartSpec
from splitlearn.errors import EngineFailed, PositionNotReached, UnsupportedModel
from splitlearn.model.part import Part, cut
from splitlearn.runner.interface import SequenceInput
from splitlearn.runner.vllm_runner import VLLMRunner
from support.block_executor import BLOCK_ROWS, WIDTH, BlockExecutor
from support.tiny_models import tiny_config


@pytest.fixture(scope="module")
def part() -> Part:
    return cut(tiny_config("llama"), PartSpec.parse("1-3"))


def rows(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-9, 9, (count, WIDTH), generator=torch.Generator().manual_seed(seed)).float()


def runner(part: Part, executor: BlockExecutor, max_rows: int = 64, max_requests: int = 8) -> VLLMRunner:
    return VLLMRunner(part, executor, max_rows, max_requests)


def test_a_session_may_hold_what_vllm_the_context_and_the_blocks_hold(part: Part) -> None:
    made = runner(part, BlockExecutor(n_blocks=11, max_session_rows=100))
    assert made.max_session_rows == 100
    assert runner(part, BlockExecutor(max_session_rows=10**6)).max_session_rows == part.context_length
    budget = made.page_budget(32)
    assert (budget.n_pages, budget.page_size) == (10, BLOCK_ROWS)


def test_rows_that_layers_do_not_add_up_are_found_out_before_anybody_is_served(part: Part) -> None:
    executor = BlockExecutor(adds_up=False)
    with pytest.raises(UnsupportedModel, match="not summands"):
        runner(part, executor)
    assert executor.is_closed


def test_what_vllm_cannot_compute_is_found_out_before_anybody_is_served(part: Part) -> None:
    executor = BlockExecutor()
    executor.fails = "after"
    with pytest.raises(UnsupportedModel, match="fails at the first rows: out of memory"):
        runner(part, executor)
    assert executor.is_closed


def test_processes_that_fail_at_the_first_rows_leave_the_layers_to_the_native_engine(part: Part) -> None:
    executor = BlockExecutor()
    executor.fails, executor.error = "before", EngineFailed("a process of the engine failed: no such kernel")
    with pytest.raises(UnsupportedModel, match=r"fails at the first rows: .* no such kernel"):
        runner(part, executor)
    assert executor.is_closed


def test_who_waits_for_a_failure_is_told_by_the_executor(part: Part) -> None:
    executor, told = BlockExecutor(), list[EngineFailed]()
    runner(part, executor).on_failure(told.append)
    failure = EngineFailed("gone")
    assert executor.tell is not None
    executor.tell(failure)
    assert told == [failure]


def test_a_step_that_is_larger_than_a_forward_takes_several(part: Part) -> None:
    executor = BlockExecutor()
    made = runner(part, executor, max_rows=8, max_requests=2)
    before = len(executor.plans)
    inputs = [SequenceInput(made.new_kv(None), 0, rows(count, count)) for count in (11, 1, 1, 2)]
    outputs = made.run(inputs)
    for each, output in zip(inputs, outputs, strict=True):
        assert torch.equal(output, each.rows.cumsum(0))
    assert [plan.n_rows for plan in executor.plans[before:]] == [8, 4, 3]


@pytest.mark.parametrize("when", ["before", "after"])
def test_after_a_failed_forward_a_session_goes_on_from_where_it_was(part: Part, when: str) -> None:
    executor = BlockExecutor()
    made = runner(part, executor)
    kv, text = made.new_kv(None), rows(9)
    made.run([SequenceInput(kv, 0, text[:6])])
    executor.fails = when
    with pytest.raises(RuntimeError, match="out of memory"):
        made.run([SequenceInput(kv, 6, text[6:])])
    executor.fails = None
    made.truncate(kv, 6)
    assert torch.equal(made.run([SequenceInput(kv, 6, text[6:])])[0], text.cumsum(0)[6:])


def test_a_session_whose_block_may_not_have_been_copied_asks_for_its_rows_again(part: Part) -> None:
    executor = BlockExecutor()
    made = runner(part, executor)
    cached, kv, text = made.new_kv(None), made.new_kv(None), rows(9)
    made.run([SequenceInput(cached, 0, text[:6])])
    made.copy_prefix(kv, cached, 6)
    executor.fails = "before"
    with pytest.raises(RuntimeError):
        made.run([SequenceInput(kv, 6, text[6:])])
    executor.fails = None
    with pytest.raises(PositionNotReached):
        made.run([SequenceInput(kv, 6, text[6:])])
    assert torch.equal(made.run([SequenceInput(kv, 0, text)])[0], text.cumsum(0))


@pytest.mark.parametrize("seed", range(30))
def test_each_session_reads_its_own_rows_alone_whatever_sessions_do(part: Part, seed: int) -> None:
    random = Random(seed)
    executor = BlockExecutor(n_blocks=60)
    made = runner(part, executor, max_rows=16, max_requests=3)
    texts = []
    cached = []
    for step in range(150):
        act = random.randrange(8)
        if act < 2 and len(texts) < 6:
            kv, held = made.new_kv(None), rows(0)
            if cached and random.random() < 0.7:
                source, source_held = random.choice(cached)
                count = random.randint(0, source_held.shape[0])
                kv, held = made.copy_prefix(kv, source, count), source_held[:count]
            texts.append((kv, held))
        elif act == 2 and texts:
            kv, held = texts.pop(random.randrange(len(texts)))
            kept = random.randint(0, held.shape[0])
            made.release(kv, kept)
            if kept:
                cached.append((kv, held[:kept]))
        elif act == 3 and len(cached) > 2:
            made.release(cached.pop(0)[0])
        elif texts:
            chosen = random.sample(range(len(texts)), random.randint(1, len(texts)))
            starts = [random.choice([texts[i][1].shape[0], random.randint(0, texts[i][1].shape[0])]) for i in chosen]
            new = [rows(random.choice([1, 1, 2, 7]), 1000 * seed + 10 * step + i) for i in chosen]
            inputs = []
            for i, start, own in zip(chosen, starts, new, strict=True):
                kv, held = texts[i]
                if start + own.shape[0] > 24:
                    start = 0
                texts[i] = (made.truncate(kv, start), torch.cat([held[:start], own]))
                inputs.append(SequenceInput(texts[i][0], start, own))
            for i, each, output in zip(chosen, inputs, made.run(inputs), strict=True):
                assert torch.equal(output, texts[i][1].cumsum(0)[each.start :])
    for kv, _ in [*texts, *cached]:
        made.release(kv)
    last = made.new_kv(None)
    made.run([SequenceInput(last, 0, rows(1))])
    assert len(executor.requests) == 1  # vLLM remembers nobody who has left
    assert made._pool.n_free == made._pool.total - 1


def test_the_device_is_vllms_and_not_the_parts(part: Part) -> None:
    assert part.device.type == "meta"
    assert runner(part, BlockExecutor()).device.type == "cpu"
