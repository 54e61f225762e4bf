import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from cleangpt.data.batches import Batch
from cleangpt.distillation.blocks import Blocks
from cleangpt.distillation.distillation_trainer import DistillationTrainer
from cleangpt.errors import (
    CheckpointBrokenError,
    CheckpointMismatchError,
    StitchingNeededError,
    VocabularyMismatchError,
)
from splitlearn.convert import prepare


def _trainer(teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], out: Path) -> DistillationTrainer:
    torch.manual_seed(0)
    return DistillationTrainer(
        teacher_model=teacher,
        student_model=student,
        tokenizer=None,
        train_dataloader=texts,
        device=torch.device("cpu"),
        output_dir=out,
        use_stitching_layers=True,
        logit_loss_type="kl_div",
    )


def test_every_block_and_the_head_learn(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    trainer = _trainer(teacher, student, texts, tmp_path)
    results = trainer.train(epochs_per_block=10, lr_per_block=1e-2, train_lm_head=True, lm_head_epochs=10)
    assert len(results.blocks) == 2
    for history in (*results.blocks, results.head):
        assert history is not None
        assert sum(history.losses[-3:]) < 0.95 * sum(history.losses[:3])
    assert json.loads((tmp_path / "history.json").read_text()) == json.loads(json.dumps(results.to_dict()))


def test_a_block_leaves_its_neighbours_and_the_head_as_they_are(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    before = {name: each.clone() for name, each in teacher.state_dict().items()}
    untouched = [each.clone() for each in Blocks(student).head_parameters()[:2]]
    _trainer(teacher, student, texts, tmp_path).train(1, 1e-2, train_lm_head=False)
    assert all(torch.equal(before[name], each) for name, each in teacher.state_dict().items())
    assert all(map(torch.equal, untouched, Blocks(student).head_parameters()[:2]))


def test_end_to_end_fits_the_whole_student_to_the_logits(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    before = [each.clone() for each in student.parameters()]
    history = _trainer(teacher, student, texts, tmp_path).train_end_to_end(8, 1e-2).end_to_end
    assert history is not None
    assert history.losses[-1] < history.losses[0]
    assert not any(map(torch.equal, before, student.parameters()))


def test_a_distillation_that_was_killed_ends_as_an_uninterrupted_one(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    second, third = copy.deepcopy(student), copy.deepcopy(student)
    whole = _trainer(teacher, student, texts, tmp_path / "whole").train(2, 1e-2)
    _trainer(teacher, second, texts, tmp_path / "killed").train(2, 1e-2, train_lm_head=False)
    resumed = _trainer(teacher, third, texts, tmp_path / "killed").train(2, 1e-2)
    assert [each.losses for each in resumed.blocks] == [each.losses for each in whole.blocks]
    assert resumed.head is not None
    assert whole.head is not None
    assert resumed.head.losses == whole.head.losses
    assert all(map(torch.equal, student.parameters(), third.parameters()))


def test_checkpoints_of_another_text_or_damaged_ones_are_refused_and_kept(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    _trainer(teacher, student, texts, tmp_path).train(1, 1e-2)
    file = tmp_path / "checkpoints" / "block_00000" / "checkpoint.pt"
    with pytest.raises(CheckpointMismatchError, match="text or model"):
        _trainer(teacher, student, texts[:1], tmp_path).train(1, 1e-2)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointBrokenError, match="100 bytes"):
        _trainer(teacher, student, texts, tmp_path).train(1, 1e-2)
    assert file.stat().st_size == 100


def test_the_student_is_written_as_a_folder_that_can_be_cut(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    _trainer(teacher, student, texts, tmp_path).train(1, 1e-2, train_lm_head=False)
    prepare(str(tmp_path / "student")).write(tmp_path / "sepweight")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    torch.testing.assert_close(again(texts[0].ids_BT).logits, student(texts[0].ids_BT).logits)


def test_unequal_vocabularies_are_refused_with_both_sizes(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    student.resize_token_embeddings(40, mean_resizing=False)
    with pytest.raises(VocabularyMismatchError, match=r"40 entries.*32"):
        _trainer(teacher, student, texts, tmp_path)


def test_unequal_widths_need_stitching(teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch]) -> None:
    with pytest.raises(StitchingNeededError, match=r"8 wide.*16"):
        DistillationTrainer(teacher, student, None, texts, use_stitching_layers=False)


def test_a_folder_can_be_the_teacher(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    teacher.save_pretrained(tmp_path / "teacher")
    trainer = DistillationTrainer(tmp_path / "teacher", student, None, texts, output_dir=tmp_path / "out")
    from_folder = trainer.train_end_to_end(1).end_to_end
    assert from_folder is not None
    assert from_folder.step == len(texts)
