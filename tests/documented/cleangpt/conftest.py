import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
)

import cleangpt.model  # noqa: F401 - registers its models with the Auto classes
from support.cleangpt_workplace import STORIES, save_dataset, save_gpt2


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workplace")
    save_gpt2(folder / "gpt2")
    save_dataset(folder / "roneneldan" / "TinyStories", "story")
    save_dataset(folder / "wikitext", "text")
    save_dataset(folder / "wikimedia" / "wikipedia" / "20231101.en", "text")
    repository = folder / "hub" / "models--openai-community--gpt2"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder / "gpt2", repository / "snapshots" / ("0" * 40))
    with pytest.MonkeyPatch.context() as patch:
        # what HF_HUB_CACHE says, which the hub's library has read already
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
        patch.chdir(folder)
        yield folder


@pytest.fixture(autouse=True)
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu")


@pytest.fixture
def teacher_model(workplace: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(workplace / "gpt2")


@pytest.fixture
def tokenizer(workplace: Path) -> Any:
    return AutoTokenizer.from_pretrained(workplace / "gpt2")


@pytest.fixture
def ids_BT(tokenizer: Any) -> Tensor:  # noqa: N802 - a shape
    ids = [each for story in STORIES[:12] for each in tokenizer.encode(story)]
    return torch.tensor(ids[: len(ids) // 32 * 32]).view(-1, 32)[:8]
