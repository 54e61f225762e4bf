"""The cut on a CUDA device: `pytest -m gpu`, on a machine that has one.

Shapes: T rows, H heads, K heads of keys, d width of a head, V vocabulary.
"""

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.masking_utils import sliding_window_causal_mask_function

from splitlearn.attention.kv_layout import KVLayout
from splitlearn.attention.params import AttentionParams
from splitlearn.attention.ragged import RaggedCache, attend_rows, make_mask
from splitlearn.backends.cuda.backend import PagedBackend
from splitlearn.backends.cuda.paged_attention import PagedAttention, PagedKernel
from splitlearn.backends.cuda.paged_kv import PagedKVCache, PagePool
from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_parts as load_parts_as
from splitlearn.engine import DeviceThread, Engine, Limits
from splitlearn.errors import NoRoom, PositionNotReached
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.interface import SequenceInput
from splitlearn.runner.select import runner_for
from support.crowd import admit_too_many
from support.paged import plain_attention
from support.sessions import Chain, Whole, decode, load_parts, prompt
from support.steps import begin_step
from support.tiny_models import N_LAYERS, random_model, save_sepweight, tiny_config

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "llama", "mixtral", "falcon"])
def test_the_cut_on_cuda_equals_the_whole_model_there(tmp_path: Path, model_type: str) -> None:
    model = random_model(tiny_config(model_type))
    parts = load_parts(save_sepweight(tmp_path, model), SplitPlan(1, 3, N_LAYERS), device="cuda")
    split, whole = Chain(parts), Whole(model.to("cuda"))
    ids = prompt(64).to("cuda")
    tokens, logits = decode(split, split.append(ids), 32)
    expected_tokens, expected_logits = decode(whole, whole.append(ids), 32)
    assert tokens == expected_tokens
    torch.testing.assert_close(torch.stack(logits), torch.stack(expected_logits), atol=1e-4, rtol=0)


async def test_an_engine_takes_rows_from_the_host_and_gives_them_back_there(tmp_path: Path) -> None:
    weights = save_sepweight(tmp_path, random_model(tiny_config("llama")))
    _, trunk, _ = load_parts(weights, SplitPlan(1, 4, N_LAYERS), device="cuda")
    with DeviceThread() as thread:
        engine = build_engine(trunk, thread)
        step = await engine.step(engine.open(), 0, torch.randn(5, 64))
    assert step.output.device.type == "cpu"
    assert bool(torch.isfinite(step.output).all())


PLAN = SplitPlan(1, 3, N_LAYERS)
LENGTHS = (5, 300, 1, 70, 18, 2, 41, 256, 3, 25, 255, 12, 7, 257, 4, 64)
NEW_TOKENS = 12
KV_BYTES = 64 * 2**20
# How far below the whole model's best logit, as a share of the logits' spread, a token may be that was chosen instead:
# rounding to 8 bits in each of a few dozen operations, in another order
UNDECIDED = 0.03


def in_bf16(folder: Path, model: PreTrainedModel) -> list[Part]:
    weights = save_sepweight(folder, model)
    return load_parts_as(weights, [PLAN.bottom, PLAN.trunk, PLAN.top], device="cuda", dtype="bfloat16")


async def generate(engines: list[Engine], ids_T: torch.Tensor) -> list[int]:
    """Greedy tokens; whoever loses its pages sends everything again."""
    sessions = [engine.open(ids_T.shape[0] + NEW_TOKENS) for engine in engines]
    text_T, position = ids_T, 0
    while text_T.shape[0] < ids_T.shape[0] + NEW_TOKENS:
        rows = text_T[position:]
        try:
            for engine, session in zip(engines, sessions, strict=True):
                rows = (await engine.step(session, position, rows)).output
        except PositionNotReached:
            position = 0
            continue
        position = text_T.shape[0]
        text_T = torch.cat([text_T, rows.argmax()[None]])
    for engine, session in zip(engines, sessions, strict=True):
        engine.close(session)
    return text_T[ids_T.shape[0] :].tolist()


@torch.inference_mode()
def check_greedy(model: PreTrainedModel, ids_T: torch.Tensor, tokens: list[int]) -> None:
    """Each token is the whole model's choice after those before it, or one between which it cannot decide.

    In bf16 two right ways to compute the same differ in their last bits, so tokens need not be identical: where two
    logits are as good as equal either may win, and from there on texts differ. So the whole model reads the text
    that was made, and must find each token at the top, or within rounding of it.
    """
    text_T = torch.cat([ids_T, torch.tensor(tokens)]).to(model.device)
    logits_TV = model(text_T[None]).logits[0, ids_T.shape[0] - 1 : -1].float()
    best_T, chosen_T = logits_TV.amax(1), logits_TV[range(len(tokens)), tokens]
    spread_T = best_T - logits_TV.amin(1)
    assert bool((best_T - chosen_T <= UNDECIDED * spread_T).all()), (best_T - chosen_T) / spread_T


# none with experts: rounding may send a row to another one, whose answer is not near
@pytest.mark.parametrize("n_sessions", [1, 3, 16])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma2", "qwen3", "gpt2"])
async def test_sessions_at_once_choose_what_the_whole_model_would(
    tmp_path: Path, model_type: str, n_sessions: int
) -> None:
    model = random_model(tiny_config(model_type))
    with DeviceThread() as thread:
        engines = [
            build_engine(part, thread, Limits(kv_cache_memory_bytes=KV_BYTES)) for part in in_bf16(tmp_path, model)
        ]
        prompts = [prompt(length) for length in LENGTHS[:n_sessions]]
        made = await asyncio.gather(*(generate(engines, ids_T) for ids_T in prompts))
        assert all(engine.pages.used == 0 and engine.pages.page_rows == 256 for engine in engines)
    whole = model.to("cuda", torch.bfloat16)
    for ids_T, tokens in zip(prompts, made, strict=True):
        check_greedy(whole, ids_T, tokens)


async def test_sessions_that_lose_their_pages_choose_the_same(tmp_path: Path) -> None:
    model = random_model(tiny_config("llama"))
    with DeviceThread() as thread:
        parts = in_bf16(tmp_path, model)
        # four pages for sessions in each part, and one that is nobody's
        budgets = [5 * 256 * runner_for(part, KV_BYTES).row_bytes for part in parts]
        engines = [
            build_engine(part, thread, Limits(kv_cache_memory_bytes=budget, headroom=0))
            for part, budget in zip(parts, budgets, strict=True)
        ]
        for engine in engines:
            admit_too_many(engine)
        prompts = [prompt(length) for length in (250, 251, 252, 253)]  # each goes over the edge of its page
        made = await asyncio.gather(*(generate(engines, ids_T) for ids_T in prompts))
    whole = model.to("cuda", torch.bfloat16)
    for ids_T, tokens in zip(prompts, made, strict=True):
        check_greedy(whole, ids_T, tokens)


@pytest.mark.parametrize("n_sessions", [1, 3, 4, 16])
def test_steps_that_are_replayed_give_what_they_give_when_they_run(tmp_path: Path, n_sessions: int) -> None:
    trunk = in_bf16(tmp_path, random_model(tiny_config("llama")))[1]
    replayed = runner_for(trunk, KV_BYTES)
    assert isinstance(replayed, BatchedRunner)
    running = BatchedRunner(trunk, KV_BYTES, PagedBackend)
    outputs = []
    for runner in (replayed, running):
        dice = torch.Generator().manual_seed(0)
        kvs: list[Any] = [runner.new_kv(None) for _ in range(n_sessions)]
        rows = [torch.randn(length, 64, generator=dice).bfloat16() for length in LENGTHS[:n_sessions]]
        runner.run([SequenceInput(kv, 0, rows_TD) for kv, rows_TD in zip(kvs, rows, strict=True)])
        for at in range(5):
            new = [torch.randn(1, 64, generator=dice).bfloat16() for _ in kvs]
            spans = [SequenceInput(kv, n + at, row) for kv, n, row in zip(kvs, LENGTHS, new, strict=False)]
            outputs.append(torch.cat(runner.run(spans)).float())
    assert replayed._graphs is not None
    assert replayed._graphs.reason is None  # else both ran
    for found, expected in zip(outputs[:5], outputs[5:], strict=True):
        # padding changes the sizes of matrices, and with them the order of sums
        assert (found - expected).norm() < 0.02 * expected.norm()


def test_what_cannot_be_captured_runs_all_the_same_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trunk = in_bf16(tmp_path, random_model(tiny_config("gemma2")))[1]
    runner = runner_for(trunk, KV_BYTES)
    kv: Any = runner.new_kv(None)
    rows_TD = torch.randn(20, 64).bfloat16()
    with caplog.at_level(logging.WARNING, logger="splitlearn"):
        outputs = [runner.run([SequenceInput(kv, at, rows_TD[at : at + 1])])[0] for at in range(20)]
    assert caplog.text.count("without CUDA graphs") == 1
    assert "caps scores" in caplog.text
    expected_TD = trunk(rows_TD.to("cuda"), 0, trunk.new_cache()).cpu().float()
    assert (torch.cat(outputs).cpu().float() - expected_TD).norm() < 0.02 * expected_TD.norm()


def test_after_a_capture_that_failed_the_device_goes_on(tmp_path: Path) -> None:
    class Waits(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden if float(hidden.sum()) else hidden + 1

    trunk = in_bf16(tmp_path, random_model(tiny_config("llama")))[1]
    trunk.model.get_submodule(trunk.layout.layers)[0].mlp.act_fn = torch.nn.Sequential(torch.nn.SiLU(), Waits())
    runner = runner_for(trunk, KV_BYTES)
    assert isinstance(runner, BatchedRunner)
    stream = torch.cuda.current_stream()
    kv: Any = runner.new_kv(None)
    rows_TD = torch.randn(6, 64).bfloat16()
    outputs = [runner.run([SequenceInput(kv, at, rows_TD[at : at + 1])])[0] for at in range(6)]
    assert runner._graphs is not None
    assert runner._graphs.reason is not None
    assert torch.cuda.current_stream() == stream
    expected_TD = trunk(rows_TD.to("cuda"), 0, trunk.new_cache()).cpu().float()
    assert (torch.cat(outputs).cpu().float() - expected_TD).norm() < 0.02 * expected_TD.norm()


def test_an_exhausted_pool_says_so_and_serves_those_who_come_later(tmp_path: Path) -> None:
    trunk = in_bf16(tmp_path, random_model(tiny_config("llama")))[1]
    row_bytes = runner_for(trunk, KV_BYTES).row_bytes
    runner = runner_for(trunk, 3 * 256 * row_bytes)
    assert runner.page_budget(32).n_pages == 2
    first, second = runner.new_kv(None), runner.new_kv(None)
    rows_TD = torch.randn(257, 64).bfloat16()
    runner.run([SequenceInput(first, 0, rows_TD)])  # type: ignore[list-item]
    with pytest.raises(NoRoom, match="1 pages are wanted, 0 of 2 are free"):
        runner.run([SequenceInput(second, 0, rows_TD[:1])])  # type: ignore[list-item]
    runner.release(first)  # type: ignore[arg-type]
    (output_TD,) = runner.run([SequenceInput(second, 0, rows_TD)])  # type: ignore[list-item]
    assert bool(torch.isfinite(output_TD).all())


@pytest.mark.parametrize("window", [None, 1, 7, 300])
@pytest.mark.parametrize("n_kv_heads", [1, 2, 8])
@pytest.mark.parametrize("width", [64, 80, 128, 256])
def test_the_kernel_attends_as_plain_torch_does(n_kv_heads: int, width: int, window: int | None) -> None:
    rule = None if window is None else make_mask(mask_function=sliding_window_causal_mask_function(window))
    steps = (((0, 300), (0, 1), (0, 255)), ((300, 1), (1, 1), (255, 1)), ((301, 1), (2, 9), (256, 300)))
    found, expected = (
        attended(kernel, device, dtype, (n_kv_heads, width), rule, steps)
        for kernel, device, dtype in (
            (PagedKernel(), "cuda", torch.bfloat16),
            (PagedKernel(plain_attention, (torch.float32,)), "cpu", torch.float32),
        )
    )
    for ours, by_hand in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.float().cpu(), by_hand, atol=2e-2, rtol=2e-2)


def attended(
    kernel: PagedKernel, device: str, dtype: torch.dtype, shape: tuple[int, int], rule: Any, steps: Any
) -> list[torch.Tensor]:
    """[T, H, d] of each step of three sessions; the numbers are the same on all devices, and exact in bf16."""
    pool = PagePool(KVLayout((shape, shape), dtype, torch.device(device)), 12, 256)
    cache = RaggedCache()
    kvs, dice, outputs = [PagedKVCache(pool) for _ in range(3)], torch.Generator().manual_seed(0), []
    for step in steps:
        sessions = [(kv, *sizes) for kv, sizes in zip(kvs, step, strict=True)]
        begin_step(cache, sessions, partial(PagedAttention.of, pool, kernel))
        n_rows = sum(count for _, count in step)
        query, key, value = (
            torch.randn(1, n, n_rows, shape[1], generator=dice).bfloat16().to(device, dtype)
            for n in (8, shape[0], shape[0])
        )
        cache.update(key, value, 0)
        outputs.append(attend_rows(cache, query[0], rule, AttentionParams(None, None, None, None)))
        cache.end()
    return outputs
