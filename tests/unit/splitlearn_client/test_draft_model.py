"""What is said of a draft model that cannot guess for the large one."""

import shutil
from pathlib import Path

import pytest

from splitlearn.engine import DeviceThread
from splitlearn.errors import BadCheckpoint
from splitlearn_client.draft_model import load_draft_model
from splitlearn_client.errors import BadModelFiles
from splitlearn_client.settings import ClientSettings
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
