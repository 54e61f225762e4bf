"""Validation while distilling, and the settings that stages have of their own."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from cleangpt.data.batches import Batch
from cleangpt.distillation.blocks import Blocks
from cleangpt.distillation.distillation_trainer import DistillationTrainer
from cleangpt.distillation.losses import HiddenStateLoss, LogitLoss
from cleangpt.distillation.text import next_ids
from cleangpt.errors import CheckpointMismatchError, TrainingSettingsError
from cleangpt.trainers import Callback, Run, TrainingSettings

_EVERY_TWO = TrainingSettings(epochs=1, evaluate_every=2)


@pytest.fixture
def held_out() -> list[Batch]:
    generator = torch.Generator().manual_seed(4)
    return [Batch(torch.randint(32, (rows, 8), generator=generator)) for rows in (3, 1)]


def _with_dropout(student: PreTrainedModel) -> PreTrainedModel:
    torch.manual_seed(2)
    config = copy.deepcopy(student.config)
    config.resid_pdrop = 0.3
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


class _Ends(Callback):
    """Ends every stage after a step, as a kill does that comes after its checkpoint."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, run: Run) -> None:
        if run.step == self._step:
            run.stop("enough")


def test_every_stage_measures_its_own_loss_where_due_and_at_its_end_without_dropout(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], held_out: list[Batch], tmp_path: Path
) -> None:
    student = _with_dropout(student)
    trainer = DistillationTrainer(
        teacher, student, None, texts, output_dir=tmp_path, settings=_EVERY_TWO, validation_dataloader=held_out
    )
    results = trainer.train(1, 1e-2)
    assert results.head is not None
    for history in (*results.blocks, results.head):
        assert [each.step for each in history.evaluations] == [2, 3]
    # what the head's stage measured at its end, on the student as it is now: three rows and one
    found, losses = (Blocks(student), Blocks(teacher)), list[float]()
    with torch.no_grad():
        for batch in held_out:
            losses.append(float(LogitLoss()(*(each.logits(batch) for each in found), next_ids(batch))))
    expected = (3 * losses[0] + losses[1]) / 4
    assert results.head.evaluations[-1].loss == pytest.approx(expected, rel=1e-5)
    assert not student.training
    written = json.loads((tmp_path / "history.json").read_text())
    assert written["head"]["evaluations"][-1] == {"step": 3, "loss": results.head.evaluations[-1].loss}
    assert written["head"]["tokens"] == [4 * 8] * 3


def test_validation_changes_nothing_of_the_student_and_keeps_no_weights(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], held_out: list[Batch], tmp_path: Path
) -> None:
    def fitted(validation: list[Batch] | None, out: str) -> PreTrainedModel:
        twin = _with_dropout(student)
        where = {"output_dir": tmp_path / out, "settings": _EVERY_TWO, "validation_dataloader": validation}
        DistillationTrainer(teacher, twin, None, texts, **where).train(2, 1e-2)
        return twin

    alone, watched = fitted(None, "alone"), fitted(held_out, "watched")
    assert all(map(torch.equal, alone.parameters(), watched.parameters()))
    assert not list(tmp_path.rglob("best.pt"))


def test_a_stage_that_was_stopped_goes_on_with_the_same_losses_and_evaluations(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], held_out: list[Batch], tmp_path: Path
) -> None:
    def run(out: str, callbacks: Sequence[Callback] = (), rows: list[Batch] = held_out) -> dict[str, Any]:
        where = {"output_dir": tmp_path / out, "settings": _EVERY_TWO, "validation_dataloader": rows}
        trainer = DistillationTrainer(teacher, _with_dropout(student), None, texts, **where, callbacks=callbacks)
        found = trainer.train_end_to_end(3, 1e-2).end_to_end
        assert found is not None
        return {**found.to_dict(), "seconds": 0.0}

    whole = run("whole")
    assert len(run("stopped", [_Ends(5)])["losses"]) == 5
    assert run("stopped") == whole
    with pytest.raises(CheckpointMismatchError, match=r"another training: other validation text\. Train"):
        run("stopped", rows=[Batch(held_out[0].ids_BT.flip(1)), held_out[1]])


def test_each_block_has_its_rate_and_the_head_the_last_one_or_its_own(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    def peaks(lr: float | Sequence[float], out: str, **more: float) -> list[float]:
        trainer = DistillationTrainer(teacher, copy.deepcopy(student), None, texts, output_dir=tmp_path / out)
        results = trainer.train(4, lr, lm_head_epochs=4, **more)
        assert results.head is not None
        return [pytest.approx(max(each.rates)) for each in (*results.blocks, results.head)]

    assert peaks([1e-3, 5e-4], "a") == [1e-3, 5e-4, 5e-4]
    assert peaks((1e-3, 5e-4), "b", lm_head_lr=2e-3) == [1e-3, 5e-4, 2e-3]
    assert peaks([1e-3], "c") == peaks(1e-3, "d") == [1e-3, 1e-3, 1e-3]
    with pytest.raises(TrainingSettingsError, match="lr_per_block has 3 rates for 2 blocks"):
        peaks([1e-3, 1e-3, 1e-3], "e")
    assert not (tmp_path / "e").exists()


def test_the_heads_stage_has_settings_of_its_own(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    def fitted(out: str, **settings: Any) -> tuple[PreTrainedModel, list[float]]:
        twin = copy.deepcopy(student)
        trainer = DistillationTrainer(teacher, twin, None, texts, output_dir=tmp_path / out, **settings)
        results = trainer.train(1, 1e-2)
        assert results.head is not None
        return twin, [loss for each in results.blocks for loss in each.losses]

    plain = TrainingSettings(epochs=1)
    decaying = replace(plain, weight_decay=10.0)
    first, second = fitted("first", settings=plain), fitted("second", settings=plain, head_settings=decaying)
    assert first[1] == second[1]
    assert second[0].lm_head.weight.norm() < 0.99 * first[0].lm_head.weight.norm()
    with pytest.raises(CheckpointMismatchError, match=r"another training: weight_decay was 0.01 and is now 10.0\."):
        fitted("first", settings=plain, head_settings=decaying)


def test_earlier_blocks_are_fitted_on_where_they_are_not_frozen_and_a_kill_changes_nothing(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    def after(out: str, epochs: int = 1, callbacks: Sequence[Callback] = (), **more: Any) -> PreTrainedModel:
        twin = copy.deepcopy(student)
        trainer = DistillationTrainer(
            teacher, twin, None, texts, output_dir=tmp_path / out, callbacks=callbacks, **more
        )
        trainer.train(epochs, 1e-2, train_lm_head=False)
        return twin

    frozen, free = after("frozen"), after("free", freeze_previous_blocks=False)
    first = [each.transformer.h[0].attn.c_attn.weight for each in (frozen, free)]
    assert not torch.equal(*first)
    again = after("free", freeze_previous_blocks=False)
    assert all(map(torch.equal, free.parameters(), again.parameters()))
    with pytest.raises(CheckpointMismatchError, match="freeze_previous_blocks was False and is now True"):
        after("free")


def test_the_weight_of_the_loss_multiplies_it_and_one_changes_nothing(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    def losses(out: str, **more: float) -> list[float]:
        trainer = DistillationTrainer(teacher, copy.deepcopy(student), None, texts, output_dir=tmp_path / out, **more)
        found = trainer.train_end_to_end(2, 1e-3).end_to_end
        assert found is not None
        return found.losses

    plain = losses("plain")
    assert losses("one", logit_loss_weight=1.0) == plain
    assert losses("three", logit_loss_weight=3.0)[0] == pytest.approx(3 * plain[0], rel=1e-6)
    with pytest.raises(CheckpointMismatchError, match=r"logit_loss_weight was 1.0 and is now 2.0"):
        losses("plain", logit_loss_weight=2.0)


def test_stitches_without_biases_and_the_temperature_of_hidden_states_reach_their_stages(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    trainer = DistillationTrainer(
        teacher,
        student,
        None,
        texts[:1],
        output_dir=tmp_path,
        stitching_layer_bias=False,
        hidden_state_loss_type="kl_div",
        hidden_state_temperature=2.0,
    )
    stitches = trainer._stitches
    assert [name for name, _ in stitches.named_parameters()] == ["maps.0.weight", "maps.1.weight"]
    with torch.no_grad():
        rows_ND = [
            model.after(texts[0].ids_BT, block).flatten(0, 1)
            for model, block in ((Blocks(student), 0), (Blocks(teacher), 1))
        ]
        expected = float(HiddenStateLoss("kl_div", temperature=2.0)(stitches(0, rows_ND[0]), rows_ND[1]))
    results = trainer.train(1, 1e-9, train_lm_head=False)
    assert results.blocks[0].losses[0] == pytest.approx(expected, rel=1e-5)
