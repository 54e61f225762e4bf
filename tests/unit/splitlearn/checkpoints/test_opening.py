"""What a source is: a folder, a model of the hub, or a GGUF file."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from splitlearn import ModelFactory
from splitlearn.checkpoints.opening import is_gguf, open_source
from splitlearn.errors import BadCheckpoint, BadDevice
from support.gguf_files import write_gguf
from support.tiny_models import save_checkpoint


def test_a_gguf_file_is_known_by_its_name_and_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.GGUF").touch()
    (tmp_path / "b.bin").touch()
    (tmp_path / "c.gguf").mkdir()
    found = [name for name in ("a.GGUF", "b.bin", "c.gguf", "d.gguf") if is_gguf(str(tmp_path / name))]
    assert found == ["a.GGUF"]


def test_a_folder_may_be_called_like_a_gguf_file(tmp_path: Path, tiny_llama: PreTrainedModel) -> None:
    opened = open_source(str(save_checkpoint(tmp_path / "x.gguf", tiny_llama)), None, None)
    assert (opened.name, opened.dtype, opened.config["model_type"]) == ("x.gguf", "float32", "llama")
    assert opened.tokenizer()["tokenizer.json"] == tmp_path / "x.gguf" / "tokenizer.json"


def test_name_and_dtype_are_those_asked_for(tmp_path: Path) -> None:
    opened = open_source(str(write_gguf(tmp_path / "x.gguf")), "float16", "mine")
    assert (opened.name, opened.dtype) == ("mine", "float16")
    assert opened.tensors()["lm_head.weight"].read().dtype == torch.float16
    with pytest.raises(BadDevice, match="int8"):
        open_source(str(tmp_path / "x.gguf"), "int8", None)
    with pytest.raises(BadCheckpoint, match="cannot be called"):
        open_source(str(tmp_path / "x.gguf"), None, "a\nb")


def test_the_library_of_classes_says_who_reads_gguf_files(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf")
    with pytest.raises(BadCheckpoint, match=r"x\.gguf is a GGUF file, which only `splitlearn convert` and `plan` read"):
        ModelFactory.create_split_models("llama", path)
