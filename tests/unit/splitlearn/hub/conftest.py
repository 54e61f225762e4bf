"""A hub on loopback, with a tiny model in several forms, and an empty cache."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import PreTrainedModel

from splitlearn.hub.listing import Hub
from splitlearn.hub.store import Cache
from support.loopback_hub import LoopbackHub, loopback_hub
from support.tiny_models import save_checkpoint


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """The hub, which may be asked."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with loopback_hub() as hub:
        yield hub


@pytest.fixture
def hub(served: LoopbackHub) -> Hub:
    return Hub(served.url)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_llama: PreTrainedModel) -> Path:
    """The tiny llama in one file."""
    return save_checkpoint(tmp_path_factory.mktemp("hub") / "tiny", tiny_llama)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, tiny_llama: PreTrainedModel) -> Path:
    """The tiny llama in shards with an index."""
    folder = save_checkpoint(tmp_path_factory.mktemp("hub") / "shards", tiny_llama)
    (folder / "model.safetensors").unlink()
    tiny_llama.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder
