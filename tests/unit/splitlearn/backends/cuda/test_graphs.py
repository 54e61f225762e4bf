"""Shapes: S sessions, B sessions of a bucket, T rows, D hidden size, V vocabulary."""

import copy
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from architectures.small_configs import small_config
from splitlearn.attention.kv_layout import KVLayout
from splitlearn.backends.cpu.backend import ContiguousBackend
from splitlearn.backends.cuda.graphs import BUCKETS, DecodeGraphs, bucket_for
from splitlearn.backends.cuda.paged_attention import PagedAttention
from splitlearn.backends.cuda.paged_kv import PagedKVCache, PagePool
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.interface import SequenceInput
from support.paged import KERNEL, PAGE_ROWS, Record, paged_runner
from support.sessions import Together, load_parts
from support.tiny_models import random_model, save_sepweight, tiny_config

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: tiny_config("llama"),
    "qwen3": lambda: tiny_config("qwen3"),
    "mistral": lambda: tiny_config("mistral", sliding_window=6),
    # with a token for padding its forward looks for that among the ids, on the host
    "gpt2": lambda: tiny_config("gpt2", pad_token_id=None),
    "gpt_neox": lambda: tiny_config("gpt_neox"),
    # what cannot be captured: scores that are capped, sinks, latents
    "gemma2": lambda: tiny_config("gemma2", sliding_window=6),
    "gpt_oss": lambda: small_config("gpt_oss"),
    "deepseek_v3": lambda: small_config("deepseek_v3"),
}
CAPTURED = ("llama", "qwen3", "mistral", "gpt2", "gpt_neox")


@pytest.fixture(scope="module")
def parts_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Part]]:
    known: dict[str, list[Part]] = {}

    def make(name: str) -> list[Part]:
        if name not in known:
            config = CONFIGS[name]()
            weights = save_sepweight(tmp_path_factory.mktemp(name), random_model(config))
            known[name] = load_parts(weights, SplitPlan(1, 3, config.num_hidden_layers))
        return known[name]

    return make


def ids(length: int, seed: int) -> torch.Tensor:
    return torch.randint(3, 100, (length,), generator=torch.Generator().manual_seed(seed))


class Both:
    """The same steps of the same sessions, with pages and graphs, and with rows in one piece."""

    def __init__(self, parts: list[Part], n_sessions: int) -> None:
        self.captures = [Record() for _ in parts]
        waiting = iter(self.captures)
        self.paged = Together(parts, n_sessions, lambda part: paged_runner(part, capture=next(waiting), n_pages=100))
        self.pieces = Together(parts, n_sessions)

    def step(self, chunks: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        found, expected = self.paged.append(chunks), self.pieces.append(chunks)
        for n, logits_V in expected.items():
            torch.testing.assert_close(found[n], logits_V, atol=1e-4, rtol=0)
        return expected

    def truncate(self, session: int, position: int) -> None:
        self.paged.truncate(session, position)
        self.pieces.truncate(session, position)

    def decode(self, logits: dict[int, torch.Tensor], *sessions: int) -> dict[int, torch.Tensor]:
        return {**logits, **self.step({n: logits[n].argmax()[None] for n in sessions})}


def test_a_step_goes_to_the_smallest_bucket_that_holds_it() -> None:
    assert [bucket_for(n) for n in (1, 2, 3, 4, 5, 8, 9, 33, 64)] == [1, 2, 4, 4, 8, 8, 16, 64, 64]
    assert bucket_for(BUCKETS[-1] + 1) is None


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_replayed_is_what_the_rows_say(parts_of: Callable[[str], list[Part]], name: str) -> None:
    both = Both(parts_of(name), 5)
    logits = both.step({0: ids(7, 0), 1: ids(1, 1), 2: ids(25, 2)})
    logits = both.decode(logits, 0, 1, 2)
    logits = both.decode(logits, 2, 0)  # in another order, and one that pauses
    logits |= both.step({3: ids(12, 3), 4: ids(3, 4), 1: ids(5, 5)})  # prompts, one of them of a session with history
    for _ in range(6):  # over the edges of pages
        logits = both.decode(logits, 4, 3, 2, 1, 0)
    both.truncate(2, 9)
    both.truncate(0, 0)
    logits |= both.step({0: ids(6, 6)})
    logits = both.decode(both.decode(logits, 2, 0, 3), 1)
    for capture, runner in zip(both.captures, both.paged.runners, strict=True):
        assert isinstance(runner, BatchedRunner)
        # buckets of 1, 2, 4 and 8, each captured once
        assert (capture.n_captured, capture.n_replayed) == ((4, 10) if name in CAPTURED else (0, 0))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gemma2", "it caps scores"),
        ("gpt_oss", "sinks"),
        ("deepseek_v3", "latents"),
    ],
)
def test_what_cannot_be_captured_says_so_once(
    parts_of: Callable[[str], list[Part]], name: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    runner = paged_runner(parts_of(name)[1], capture=Record())
    rows_1D = torch.randn(1, parts_of(name)[1].hidden_size)
    kv = runner.new_kv(None)
    with caplog.at_level(logging.WARNING, logger="splitlearn"):
        for position in range(3):
            runner.run([SequenceInput(kv, position, rows_1D)])  # type: ignore[list-item]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "tokens are decoded without CUDA graphs" in caplog.text
    assert words in caplog.text


def test_experts_that_wait_for_the_device_cannot_be_captured_and_run_without(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config("mixtral", experts_implementation="eager")
    weights = save_sepweight(tmp_path_factory.mktemp("mixtral"), random_model(config))
    parts = load_parts(weights, SplitPlan(1, 3, config.num_hidden_layers))
    for part in parts:
        part.config._experts_implementation = "eager"
    both = Both(parts, 2)
    with caplog.at_level(logging.WARNING, logger="splitlearn"):
        logits = both.step({0: ids(7, 0), 1: ids(3, 1)})
        for _ in range(3):
            logits = both.decode(logits, 0, 1)
    assert len(caplog.records) == len(parts)
    assert "not permitted when stream is capturing" in caplog.text
    assert all(capture.n_replayed == 0 for capture in both.captures)


def test_outputs_outlive_the_next_step(parts_of: Callable[[str], list[Part]]) -> None:
    part = parts_of("llama")[1]
    runner = paged_runner(part, capture=Record())
    kv = runner.new_kv(None)
    rows_TD = torch.randn(4, part.hidden_size)
    outputs = [runner.run([SequenceInput(kv, at, rows_TD[at : at + 1])])[0] for at in range(4)]  # type: ignore[list-item]
    torch.testing.assert_close(torch.cat(outputs), part(rows_TD, 0, part.new_cache()), atol=1e-5, rtol=0)


def test_padding_writes_to_the_page_of_nobody_alone(parts_of: Callable[[str], list[Part]]) -> None:
    part = parts_of("llama")[1]
    runner = paged_runner(part, capture=Record())
    rows_TD = torch.randn(9, part.hidden_size)
    kvs: list[Any] = [runner.new_kv(None) for _ in range(4)]
    runner.run([SequenceInput(kv, 0, rows_TD) for kv in kvs])
    # the fourth pauses, and its place in the bucket is padding
    runner.run([SequenceInput(kv, 9, rows_TD[:1]) for kv in kvs])
    before = [tensor.clone() for tensor in kvs[3].views(0, 10)]
    runner.run([SequenceInput(kv, 10, rows_TD[:1]) for kv in kvs[:3]])
    assert all(map(torch.equal, kvs[3].views(0, 10), before))


def test_more_sessions_than_the_largest_bucket_run_without(parts_of: Callable[[str], list[Part]]) -> None:
    part, capture = parts_of("llama")[1], Record()
    runner = paged_runner(part, capture=capture, n_pages=80)
    rows_TD = torch.randn(65, part.hidden_size)
    kvs: list[Any] = [runner.new_kv(None) for _ in rows_TD]
    outputs = runner.run([SequenceInput(kv, 0, row_D[None]) for kv, row_D in zip(kvs, rows_TD, strict=True)])
    assert len(outputs) == 65
    assert capture.n_captured == 0
    runner.run([SequenceInput(kv, 1, row_D[None]) for kv, row_D in zip(kvs[:64], rows_TD, strict=False)])
    assert capture.n_captured == 1


class Broken:
    """A capture that fails as CUDA's does."""

    def __init__(self) -> None:
        self.n_tried = 0

    def __call__(self, step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        self.n_tried += 1
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")


def graphs_of(pool: PagePool, seen: list[Any], capture: Any) -> DecodeGraphs:
    """Of a step that doubles its rows and adds their positions."""

    def forward(rows_BD: torch.Tensor, positions_1B: torch.Tensor, _: PagedAttention) -> torch.Tensor:
        seen.append((rows_BD.data_ptr(), positions_1B.data_ptr(), rows_BD.shape))
        return 2 * rows_BD + positions_1B[0, :, None]

    return DecodeGraphs(forward, pool, KERNEL, 40, capture)


def pool_of(n_pages: int) -> PagePool:
    return PagePool(KVLayout(((2, 8),) * 2, torch.float32, torch.device("cpu")), n_pages, PAGE_ROWS)


def test_inputs_stay_where_they_are_and_hold_each_steps_numbers() -> None:
    pool, seen = pool_of(20), []
    # runs the step itself again, so that it can be watched
    graphs = graphs_of(pool, seen, lambda step: step)
    kvs = [PagedKVCache(pool) for _ in range(3)]
    for at in range(6):
        for n, kv in enumerate(kvs):
            kv.n_rows = at * (n + 1)  # as if they had been run
        rows_SD = torch.randn(3, 5)
        found = graphs.run(rows_SD, [(kv, at * (n + 1), 1) for n, kv in enumerate(kvs)])
        assert found is not None
        assert torch.equal(found, 2 * rows_SD + torch.tensor([[at], [2 * at], [3 * at]]))
    assert len(set(seen)) == 1
    assert seen[0][2] == (4, 5)


def test_a_session_that_is_longer_than_was_said_runs_without() -> None:
    pool = pool_of(20)
    graphs = graphs_of(pool, [], Record())
    kv = PagedKVCache(pool)
    kv.reserve(0, 39)
    with torch.inference_mode():
        assert graphs.run(torch.randn(1, 5), [(kv, 39, 1)]) is not None
        assert graphs.run(torch.randn(1, 5), [(kv, 40, 1)]) is None
        assert graphs.run(torch.randn(1, 5), [(kv, 30, 1)]) is not None


def test_a_capture_that_fails_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    pool, broken = pool_of(20), Broken()
    graphs = graphs_of(pool, [], broken)
    kv = PagedKVCache(pool)
    with caplog.at_level(logging.WARNING, logger="splitlearn"):
        assert [graphs.run(torch.randn(1, 5), [(kv, at, 1)]) for at in range(3)] == [None] * 3
    assert broken.n_tried == len(caplog.records) == 1
    assert graphs.reason == "CUDA error: operation not permitted when stream is capturing"


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_in_half_precision_replayed_rows_equal_those_that_run(parts_of: Callable[[str], list[Part]], name: str) -> None:
    weights = [copy.deepcopy(part).to(torch.bfloat16) for part in parts_of(name)]
    with_graphs, without = (
        Together(weights, 3, partial(paged_runner, capture=capture)) for capture in (Record(), None)
    )
    chunks = {n: ids(length, n) for n, length in enumerate((7, 2, 14))}
    for _ in range(5):
        found, expected = with_graphs.append(chunks), without.append(chunks)
        assert all(torch.equal(found[n], expected[n]) for n in chunks)
        chunks = {n: logits_V.argmax()[None] for n, logits_V in expected.items()}


def test_a_replayed_step_gives_the_logits_of_the_sessions_that_want_them(
    parts_of: Callable[[str], list[Part]],
) -> None:
    top = parts_of("llama")[2]
    capture = Record()
    paged, plain = paged_runner(top, capture=capture), BatchedRunner(top, None, ContiguousBackend)
    prompt_TD, rows_SD = torch.randn(4, top.hidden_size), torch.randn(3, 1, top.hidden_size)
    found: list[list[torch.Tensor]] = []
    for runner in (paged, plain):
        kvs = [runner.new_kv(None) for _ in rows_SD]
        runner.run([SequenceInput(kv, 0, prompt_TD, "none") for kv in kvs])
        wanted = zip(kvs, rows_SD, ("last", "none", "all"), strict=True)
        found.append(runner.run([SequenceInput(kv, 4, row_1D, how) for kv, row_1D, how in wanted]))
    assert capture.n_replayed
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
