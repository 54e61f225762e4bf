"""Directories whose sections are made one by one."""

import hashlib
from pathlib import Path

import pytest
import torch

from llm_sepweight import BadTensorError, Manifest, MissingSectionError, TensorSource, dump, load
from llm_sepweight.growing import has_section, list_section, write_section

ORIGIN = {"commit": "c" * 40}
LAYER = [TensorSource.of("mlp.weight", torch.arange(6.0).reshape(2, 3))]


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    Manifest(1, "tiny", {}, "float32", 3, {}, origin=ORIGIN).write(tmp_path)
    return tmp_path


def test_a_section_loads_once_it_is_listed_and_the_identity_stays(begun):
    before = Manifest.read(begun)
    entry = write_section(begun, "mid.00001", LAYER)
    with pytest.raises(MissingSectionError):
        load(begun, "1-2")
    grown = list_section(begun, "mid.00001", entry)
    assert grown == Manifest.read(begun)
    assert grown.digest == before.digest
    assert entry.sha256 == hashlib.sha256((begun / "mid.00001.safetensors").read_bytes()).hexdigest()
    assert torch.equal(load(begun, "1-2").mid[1]["mlp.weight"], torch.arange(6.0).reshape(2, 3))


def test_a_section_counts_as_there_while_its_file_has_its_size(begun):
    assert not has_section(begun, Manifest.read(begun), "mid.00001")
    entry = write_section(begun, "mid.00001", LAYER)
    assert not has_section(begun, Manifest.read(begun), "mid.00001")
    manifest = list_section(begun, "mid.00001", entry)
    assert has_section(begun, manifest, "mid.00001")
    (begun / "mid.00001.safetensors").write_bytes(b"short")
    assert not has_section(begun, manifest, "mid.00001")
    (begun / "mid.00001.safetensors").unlink()
    assert not has_section(begun, manifest, "mid.00001")


def test_a_tensor_that_cannot_be_read_leaves_no_file(begun):
    wrong = TensorSource("mlp.weight", torch.float32, (7,), lambda: torch.zeros(3))
    with pytest.raises(BadTensorError):
        write_section(begun, "mid.00001", [wrong])
    assert [path.name for path in begun.iterdir()] == ["manifest.json"]


def test_what_others_are_added_to_has_no_origin_any_more(begun):
    list_section(begun, "mid.00001", write_section(begun, "mid.00001", LAYER))
    dump(decider=lambda key: ["mid", "1", key], state_dict={"mlp.weight": torch.ones(1)}, out_path=begun)
    assert Manifest.read(begun).origin is None
