"""What is said of a draft model that cannot guess for the large one, and what one that can holds."""

import shutil
from pathlib import Path

import pytest
import torch

from splitlearn.engine import DeviceThread
from splitlearn.errors import BadCheckpoint
from splitlearn_client.draft_model import load_draft_model
from splitlearn_client.errors import BadModelFiles
from splitlearn_client.settings import ClientSettings
from support.int4_checkpoints import save_int4_sepweight
from support.tiny_models import VOCABULARY


@pytest.fixture
def draft(tmp_path: Path, tiny_weights: Path) -> Path:
    return Path(shutil.copytree(tiny_weights, tmp_path / "draft"))


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ("version https://git-lfs.github.com/spec/v1\n", BadCheckpoint, "is a Git LFS pointer"),
        ("", BadCheckpoint, "is empty"),
        ("{}", BadModelFiles, "has no vocabulary"),
        ('{"model": {"vocab": {"a": 0}}}', BadModelFiles, "has another tokenizer than"),
    ],
)
def test_a_tokenizer_that_cannot_be_compared_is_named(
    tiny_weights: Path, draft: Path, content: str, error: type[Exception], said: str
) -> None:
    (draft / "tokenizer.json").write_text(content)
    settings = ClientSettings(weights=tiny_weights, trunk="127.0.0.1:1")
    with DeviceThread() as thread, pytest.raises(error, match=f"draft.* {said}"):
        load_draft_model(draft, settings, VOCABULARY, thread)


def test_weights_that_the_files_have_in_4_bits_are_not_rounded_again(tmp_path: Path) -> None:
    folder, weights = save_int4_sepweight(tmp_path)
    settings = ClientSettings(weights=folder, trunk="127.0.0.1:1", device="cpu", quantization="int4")
    with DeviceThread() as thread:
        part = load_draft_model(folder, settings, VOCABULARY, thread).part
    up = part.get_submodule("model.model.layers.0.mlp.up_proj").weight
    assert torch.equal(up, weights["model.layers.0.mlp.up_proj.weight"].bfloat16())
