import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from cleangpt.config import GPTConfig
from cleangpt.distillation.teacher import LocalTrunk, load_teacher
from cleangpt.errors import ModelFolderError
from cleangpt.model import get_model
from splitlearn.checkpoints.load import load_part

_PROGRAM = """
import sys
from cleangpt.distillation.teacher import load_teacher
teacher = load_teacher(sys.argv[1])
print(teacher.config.model_type, teacher.training, any(each.requires_grad for each in teacher.parameters()))
"""


def test_a_model_of_cleangpt_is_a_teacher_where_nothing_else_of_it_was_imported(tmp_path: Path) -> None:
    config = GPTConfig(block_size=8, vocab_size=9, n_layer=1, n_head=1, n_embd=4)
    get_model("Vanilla", config).save_pretrained(tmp_path)
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["cleangpt_vanilla", "False", "False"], done.stderr


def test_a_model_as_it_is_stands_still_from_then_on(teacher: PreTrainedModel) -> None:
    found = load_teacher(teacher.train())
    assert found is teacher
    assert not found.training
    assert not any(each.requires_grad for each in found.parameters())


def test_a_damaged_folder_is_refused(teacher: PreTrainedModel, tmp_path: Path) -> None:
    teacher.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelFolderError, match="no model that can be read"):
        load_teacher(tmp_path)


def test_a_trunk_here_takes_rows_of_any_dtype_and_answers_without_gradients(tiny_weights: Path) -> None:
    part = load_part(tiny_weights, "1-4", dtype="float32")
    answered_BTD = LocalTrunk(part).hidden(torch.randn(1, 3, 64, dtype=torch.float64, requires_grad=True), [3])
    assert answered_BTD.dtype == torch.float32
    assert not answered_BTD.requires_grad
