import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.data.batches import Batch
from cleangpt.distillation.blocks import Blocks
from cleangpt.distillation.distillation_trainer import DistillationTrainer
from cleangpt.distillation.losses import LogitLoss
from cleangpt.distillation.stitching import StitchingLayers
from cleangpt.distillation.text import next_ids
from cleangpt.errors import (
    CheckpointBrokenError,
    CheckpointMismatchError,
    FolderInUseError,
    StitchingNeededError,
    VocabularyMismatchError,
)
from cleangpt.trainers import Callback, Run
from cleangpt.trainers.folder_lock import locked
from splitlearn.checkpoints.convert import prepare
from splitlearn.model.plan import FEWEST_LAYERS


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
    _trainer(teacher, copy.deepcopy(student), texts, tmp_path).train(1, 1e-2)
    file = tmp_path / "checkpoints" / "block_00000" / "checkpoint.pt"
    # the last row alone is another one
    *first, last = texts
    others = [*first, Batch(torch.cat((last.ids_BT[:-1], last.ids_BT[-1:].flip(1))))]
    for other in (texts[:1], others):
        with pytest.raises(CheckpointMismatchError, match="other text"):
            _trainer(teacher, copy.deepcopy(student), other, tmp_path).train(1, 1e-2)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointBrokenError, match="100 bytes"):
        _trainer(teacher, copy.deepcopy(student), texts, tmp_path).train(1, 1e-2)
    assert file.stat().st_size == 100


def test_a_student_of_another_teacher_or_start_is_refused_by_name(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    _trainer(teacher, copy.deepcopy(student), texts, tmp_path).train(1, 1e-2)
    other_teacher, other_student = copy.deepcopy(teacher), copy.deepcopy(student)
    for other in (other_teacher, other_student):
        with torch.no_grad():
            list(other.parameters())[-1].add_(1e-3)
    with pytest.raises(CheckpointMismatchError, match=r"another training: other teacher's weights. Train as then"):
        _trainer(other_teacher, copy.deepcopy(student), texts, tmp_path).train(1, 1e-2)
    with pytest.raises(CheckpointMismatchError, match="other student's start weights"):
        _trainer(teacher, other_student, texts, tmp_path).train(1, 1e-2)
    with pytest.raises(CheckpointMismatchError, match="hidden_state_loss_type was mse and is now cosine"):
        DistillationTrainer(
            teacher, copy.deepcopy(student), None, texts, output_dir=tmp_path, hidden_state_loss_type="cosine"
        ).train(1, 1e-2)


def test_two_distillations_do_not_share_an_output_folder(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    with locked(tmp_path), pytest.raises(FolderInUseError, match="name another folder"):
        _trainer(teacher, student, texts, tmp_path).train(1, 1e-2)


def test_the_student_is_written_as_a_folder_that_can_be_cut(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    student = AutoModelForCausalLM.from_config(GPT2Config(**{**student.config.to_dict(), "n_layer": FEWEST_LAYERS}))
    student.eval()
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


def test_a_block_learns_from_the_block_that_was_chosen_for_it(
    teacher: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    def first_loss(blocks: tuple[int, ...] | None, out: Path) -> float:
        twin = copy.deepcopy(teacher)
        trainer = DistillationTrainer(teacher, twin, None, texts, output_dir=out, blocks=blocks)
        return trainer.train(1, 1e-9, train_lm_head=False).blocks[0].losses[0]

    assert first_loss(None, tmp_path / "a") == pytest.approx(0, abs=1e-6)
    assert first_loss((1, 1, 2, 3), tmp_path / "b") > 0.01
    # checkpoints of one map are no good for another
    with pytest.raises(CheckpointMismatchError):
        first_loss(None, tmp_path / "b")


def test_temperature_and_learning_rates_reach_their_stages(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    with torch.no_grad():
        found = (Blocks(student).logits(texts[0]), Blocks(teacher).logits(texts[0]), next_ids(texts[0]))
        expected = float(LogitLoss("kl_div", 3.0)(*found))
    trainer = DistillationTrainer(teacher, student, None, texts[:1], output_dir=tmp_path, temperature=3.0)
    whole = trainer.train_end_to_end(1, 1e-12).end_to_end
    assert whole is not None
    # the student has no dropout
    assert whole.losses == [pytest.approx(expected, rel=1e-5)]
    results = trainer.train(20, 1e-3, lm_head_epochs=20, lm_head_lr=1e-2)
    assert results.head is not None
    # a tenth of the steps to warm up
    assert (results.blocks[0].rates[0], max(results.blocks[0].rates)) == (pytest.approx(5e-4), pytest.approx(1e-3))
    assert max(results.head.rates) == pytest.approx(1e-2)


def test_the_head_is_fitted_alone_and_nothing_is_left_behind(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    second = copy.deepcopy(student)
    _trainer(teacher, student, texts, tmp_path).train(1, 1e-2, train_lm_head=False)
    _trainer(teacher, second, texts, tmp_path).train(1, 1e-2)
    fitted = {id(each) for each in Blocks(second).head_parameters()}
    for before, after in zip(student.parameters(), second.parameters(), strict=True):
        assert torch.equal(before, after) == (id(after) not in fitted)
        assert after.requires_grad
        assert after.grad is None


def test_callbacks_see_every_step_and_the_tokenizer_lies_with_the_student(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    texts: list[Batch],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    class Modes(Callback):
        def __init__(self) -> None:
            self.seen: list[bool] = []

        def on_step(self, run: Run) -> None:
            self.seen.append(student.training)

    modes = Modes()
    trainer = DistillationTrainer(teacher, student, tiny_tokenizer, texts, output_dir=tmp_path, callbacks=[modes])
    trainer.train(1, 1e-3)
    # two blocks and the head; dropout works in all of them
    assert modes.seen == [True] * 3 * len(texts)
    assert not student.training
    assert (tmp_path / "student" / "tokenizer.json").is_file()


def test_the_stitches_learn_with_their_blocks(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    _trainer(teacher, student, texts, tmp_path).train(2, 1e-2, train_lm_head=False)
    torch.manual_seed(0)
    fresh = StitchingLayers(2, 8, 16)
    for block in range(2):
        saved = torch.load(tmp_path / "checkpoints" / f"block_{block:05d}" / "checkpoint.pt")["model"]
        [fitted_DS] = [each for each in saved.values() if each.shape == (16, 8)]
        assert not torch.equal(fitted_DS, fresh.maps[block].weight)


def test_the_checkpoint_of_another_block_is_refused(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    _trainer(teacher, copy.deepcopy(student), texts, tmp_path).train(1, 1e-2, train_lm_head=False)
    first, second = (tmp_path / "checkpoints" / f"block_{block:05d}" / "checkpoint.pt" for block in range(2))
    first.replace(second)
    with pytest.raises(CheckpointMismatchError, match="stage was block_00000 and is now block_00001"):
        _trainer(teacher, student, texts, tmp_path).train(1, 1e-2, train_lm_head=False)


def test_checkpoints_fit_a_student_and_a_teacher_that_were_saved_since(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    student.save_pretrained(tmp_path / "start")
    first = _trainer(teacher, student, texts, tmp_path).train(1, 1e-2, train_lm_head=False)
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "start")
    teacher.save_pretrained(tmp_path / "teacher")
    second = DistillationTrainer(tmp_path / "teacher", student, None, texts, output_dir=tmp_path)
    # nor does it matter what else has drawn random numbers
    both = second.train(1, 1e-2)
    assert [each.losses for each in both.blocks] == [each.losses for each in first.blocks]
    assert both.head is not None


def test_checkpoints_of_another_dtype_are_refused(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    _trainer(teacher, copy.deepcopy(student), texts, tmp_path).train(1, 1e-2, train_lm_head=False)
    with pytest.raises(CheckpointMismatchError, match="other student's config"):
        _trainer(teacher, student.to(torch.bfloat16), texts, tmp_path).train(1, 1e-2)
