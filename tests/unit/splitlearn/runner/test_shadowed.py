"""Bottom, the layers of a shadow, and top are one model.

Shapes: T rows, D hidden size, W the shadow's own width, V vocabulary.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedModel

from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import DeviceThread, Limits
from splitlearn.errors import NoRoom, PositionNotReached
from splitlearn.model.part import Part
from splitlearn.runner.interface import Runner, SequenceInput
from splitlearn.runner.select import runner_for
from splitlearn.runner.sequential import SequentialRunner
from splitlearn.runner.shadowed import ShadowedRunner, ShadowPart
from support.fused_modules import packed
from support.tiny_models import N_LAYERS, VOCABULARY, random_model, save_sepweight, tiny_config

SPECS = "b 0-1", "1-4", f"4-{N_LAYERS} e"


def shadowed(
    weights: Path,
    kv_bytes: int | None = None,
    middle: Part | None = None,
    runner: Callable[[Part, int | None], Runner[Any]] = runner_for,
) -> ShadowedRunner:
    """With the trunk itself as the shadow, if no other is given."""
    bottom, trunk, top = (load_part(weights, spec) for spec in SPECS)
    shadow = ShadowPart(middle or trunk, nn.Identity())
    return ShadowedRunner(shadow, *(runner(part, kv_bytes) for part in (bottom, shadow.part, top)))


def ids(n: int, seed: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (n,), generator=torch.Generator().manual_seed(seed))


def whole(model: PreTrainedModel, ids_T: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.as_tensor(model(ids_T[None]).logits[0, -1])


@pytest.mark.parametrize("kind", [runner_for, SequentialRunner])
def test_sessions_in_one_step_have_the_logits_of_the_whole_model_also_after_going_back(
    tiny_weights: Path, tiny_llama: PreTrainedModel, kind: Callable[[Part, int | None], Runner[Any]]
) -> None:
    runner = shadowed(tiny_weights, runner=kind)
    assert runner.is_batched is (kind is runner_for)
    texts, kvs = [ids(9, 1), ids(4, 2)], [runner.new_kv(None) for _ in range(2)]
    found = runner.run([SequenceInput(kv, 0, text) for kv, text in zip(kvs, texts, strict=True)])
    for logits_V, text in zip(found, texts, strict=True):
        torch.testing.assert_close(logits_V, whole(tiny_llama, text), atol=1e-4, rtol=0)
    kvs[0] = runner.truncate(kvs[0], 6)
    more = ids(2, 3)
    found = runner.run([SequenceInput(kvs[0], 6, more), SequenceInput(kvs[1], 4, more)])
    for logits_V, text in zip(found, (texts[0][:6], texts[1]), strict=True):
        torch.testing.assert_close(logits_V, whole(tiny_llama, torch.cat([text, more])), atol=1e-4, rtol=0)


def test_what_leaves_a_shadow_of_another_width_is_added_to_what_entered_it() -> None:
    torch.manual_seed(0)
    entrance, leaving, hidden_TD = nn.Linear(8, 4), nn.Linear(4, 8), torch.randn(3, 8)
    shadow = ShadowPart(Part.__new__(Part), entrance, leaving)
    rows_TW = entrance(hidden_TD)
    assert torch.equal(shadow.leave(hidden_TD, rows_TW), hidden_TD + leaving(rows_TW))


async def test_an_engine_takes_ids_and_gives_the_last_logits_in_slices_too(
    tiny_weights: Path, tiny_llama: PreTrainedModel
) -> None:
    runner = shadowed(tiny_weights)
    with DeviceThread(1) as thread:
        engine = build_engine(runner.part, thread, Limits(max_num_batched_tokens=16), runner=lambda *_: runner)
        session = engine.open(100)
        text = ids(50, 4)
        step = await engine.step(session, 0, text)
        torch.testing.assert_close(step.output, whole(tiny_llama, text), atol=1e-4, rtol=0)
        with pytest.raises(PositionNotReached):
            await engine.step(session, 60, ids(1, 5))
        engine.close(session)
        assert engine.pages.used == 0


def test_a_row_takes_what_it_takes_in_all_three_and_pages_are_the_fewest_of_them(tiny_weights: Path) -> None:
    runners = [runner_for(load_part(tiny_weights, spec), 100_000) for spec in SPECS]
    shadow = ShadowPart(runners[1].part, nn.Identity())
    runner = ShadowedRunner(shadow, *runners)
    assert runner.row_bytes == sum(each.row_bytes for each in runners)
    # the trunk has most layers, and room for as many bytes as the others
    assert runner.page_budget(16) == runners[1].page_budget(16)
    assert runners[1].page_budget(16).n_pages < runners[0].page_budget(16).n_pages
    with pytest.raises(NoRoom):
        shadowed(tiny_weights, kv_bytes=1).page_budget(16)


def test_a_part_that_cannot_go_back_makes_a_model_that_cannot(tiny_weights: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "state_size": 8, "intermediate_size": 128}
    mamba = random_model(CONFIG_MAPPING["mamba"](vocab_size=VOCABULARY, **sizes))
    assert shadowed(tiny_weights).can_truncate
    assert not shadowed(tiny_weights, middle=load_part(save_sepweight(tmp_path, mamba), "1-2")).can_truncate


def test_a_part_that_another_engine_runs_is_as_fused_as_there(tmp_path: Path) -> None:
    part = packed(tmp_path, tiny_config("llama"), spec="1-4")
    first, second = runner_for(part), runner_for(part)
    assert second.fusion == first.fusion
    kvs, text = (first.new_kv(None), second.new_kv(None)), torch.randn(5, part.hidden_size).bfloat16()
    [one], [other] = (each.run([SequenceInput(kv, 0, text)]) for each, kv in zip((first, second), kvs, strict=True))
    assert torch.equal(one, other)
