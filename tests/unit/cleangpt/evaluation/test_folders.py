from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from cleangpt.config import GPTConfig
from cleangpt.distillation.trunks import opened
from cleangpt.errors import ModelFolderError, TrunkMismatchError, UsageError, VocabularyMismatchError
from cleangpt.evaluation.folders import FolderRequest, evaluate_folder
from cleangpt.evaluation.texts import TextChoice
from cleangpt.model import get_model
from cleangpt.model.shadow import Shadow, ShadowConfig
from cleangpt.model.shadow_folder import export_shadow
from cleangpt.tokenizers import BaseTokenizer, create_tokenizer


@pytest.fixture
def text(story: Path) -> TextChoice:
    return TextChoice(str(story), max_batches=1)


@pytest.fixture
def student_folder(tmp_path: Path, student: PreTrainedModel, tokenizer: BaseTokenizer) -> Path:
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    return tmp_path / "student"


@pytest.fixture
def teacher_folder(tmp_path: Path, teacher: PreTrainedModel, tokenizer: BaseTokenizer) -> Path:
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.fixture
def shadow_folder(tiny_weights: Path, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    with opened(tiny_weights) as trunk:
        config = ShadowConfig(64, width=32, fingerprint=trunk.ends.fingerprint)
    return export_shadow(Shadow(config), tmp_path / "shadow")


def test_two_folders_give_a_report(student_folder: Path, teacher_folder: Path, text: TextChoice) -> None:
    report = evaluate_folder(FolderRequest(student_folder, text, teacher_folder, device="cpu"))
    assert (report.student.name, report.teacher and report.teacher.name) == ("student", "teacher (teacher)")
    # the student's positions end at 32
    assert len(report.student.likelihood.counts) == 31


def test_a_text_is_cut_for_the_model_with_fewer_positions(
    student_folder: Path, tmp_path: Path, tokenizer: BaseTokenizer, text: TextChoice
) -> None:
    config = GPTConfig(n_layer=1, n_head=2, n_embd=12, vocab_size=tokenizer.vocab_size, block_size=16)
    get_model("Vanilla", config=config).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    for folder, other in ((student_folder, tmp_path / "short"), (tmp_path / "short", student_folder)):
        report = evaluate_folder(FolderRequest(folder, text, other, device="cpu"))
        assert len(report.student.likelihood.counts) == 15


def test_other_tokens_than_the_teachers_are_refused(
    student_folder: Path, teacher_folder: Path, text: TextChoice
) -> None:
    create_tokenizer("character", texts=["ab"]).save_pretrained(teacher_folder)
    with pytest.raises(VocabularyMismatchError, match=r"20 entries.*5"):
        evaluate_folder(FolderRequest(student_folder, text, teacher_folder))


def test_a_shadow_is_told_from_a_model_and_measured_between_its_ends(
    shadow_folder: Path, tiny_weights: Path, text: TextChoice
) -> None:
    report = evaluate_folder(FolderRequest(shadow_folder, text, tiny_weights))
    assert report.student.name == "shadow as trunk"
    assert report.agreement is not None


def test_a_shadow_needs_the_model_that_it_is_part_of(shadow_folder: Path, tiny_weights: Path, text: TextChoice) -> None:
    with pytest.raises(UsageError, match="bottom and top"):
        evaluate_folder(FolderRequest(shadow_folder, text))
    with pytest.raises(TrunkMismatchError, match="2-4"):
        evaluate_folder(FolderRequest(shadow_folder, text, tiny_weights, layers="2-4"))


def test_what_is_for_shadows_is_refused_for_models(student_folder: Path, text: TextChoice) -> None:
    with pytest.raises(UsageError, match="for shadows"):
        evaluate_folder(FolderRequest(student_folder, text, trunk="somewhere:1"))
    with pytest.raises(UsageError, match="for shadows"):
        evaluate_folder(FolderRequest(student_folder, text, layers="1-2"))


def test_a_state_dict_and_a_damaged_folder_are_refused(student_folder: Path, text: TextChoice) -> None:
    state = student_folder / "student_model_final_distilled.pt"
    torch.save({}, state)
    with pytest.raises(ModelFolderError, match="is a file; a model is a folder"):
        evaluate_folder(FolderRequest(state, text))
    weights = student_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelFolderError, match="no model that can be read"):
        evaluate_folder(FolderRequest(student_folder, text))
