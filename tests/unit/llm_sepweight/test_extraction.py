"""Copying a part for a machine that holds nothing else."""

import pytest
import torch

from llm_sepweight import (
    LayersOutOfRangeError,
    Manifest,
    MissingFileError,
    OccupiedDirectoryError,
    WrongDigestError,
    WrongSizeError,
    extract,
    load,
    verify,
)


def names(path):
    return sorted(file.name for file in path.iterdir())


def test_only_the_files_of_the_part_are_copied(model, tmp_path):
    (model.path / "tokenizer.json").write_text("{}")
    out = tmp_path / "worker"
    extract(model.path, out, "1-3")
    assert names(out) == ["manifest.json", "mid.00001.safetensors", "mid.00002.safetensors"]
    verify(out, "1-3")
    assert torch.equal(load(out, "1-2").mid[1]["mlp.weight"], model.layers[1])
    with pytest.raises(MissingFileError, match=r"mid\.00000"):
        load(out, "0-3")


def test_a_copy_has_the_digest_of_the_whole_model(model, tmp_path):
    extract(model.path, tmp_path / "worker", "0-1")
    assert Manifest.read(tmp_path / "worker").digest == model.manifest.digest
    assert Manifest.read(tmp_path / "worker") == model.manifest


def test_the_file_that_stores_a_tied_weight_comes_along(model, tmp_path):
    extract(model.path, tmp_path / "top", "e")
    assert names(tmp_path / "top") == ["begin.safetensors", "end.safetensors", "manifest.json"]
    assert set(load(tmp_path / "top", "e").to_dict()) == {"end.norm.weight", "end.lm_head.weight"}


def test_a_copy_can_be_copied_on(model, tmp_path):
    extract(model.path, tmp_path / "a", "0-2")
    extract(tmp_path / "a", tmp_path / "b", "1-2")
    assert torch.equal(load(tmp_path / "b", "1-2").mid[1]["mlp.weight"], model.layers[1])


def test_the_copy_shares_no_file_with_the_original(model, tmp_path):
    extract(model.path, tmp_path / "worker", "0-1")
    name = "mid.00000.safetensors"
    assert not (tmp_path / "worker" / name).samefile(model.path / name)


def test_progress_counts_the_bytes_of_the_files(model, tmp_path):
    pieces: list[int] = []
    extract(model.path, tmp_path / "worker", "0-2", progress=pieces.append)
    assert sum(pieces) == sum(model.manifest.files[f"mid.0000{layer}"].size for layer in range(2))


def test_a_damaged_file_is_not_passed_on(model, tmp_path):
    file = model.path / "mid.00001.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(WrongDigestError, match=r"mid\.00001"):
        extract(model.path, tmp_path / "worker", "0-2")
    assert not (tmp_path / "worker").exists()
    file.write_bytes(raw)
    extract(model.path, tmp_path / "worker", "1-2")
    assert names(tmp_path / "worker") == ["manifest.json", "mid.00001.safetensors"]


def test_a_truncated_file_is_refused_before_anything_is_copied(model, tmp_path):
    file = model.path / "mid.00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WrongSizeError):
        extract(model.path, tmp_path / "worker", "0-2")
    assert not (tmp_path / "worker").exists()


def test_a_finished_directory_is_refused_unless_overwritten(model, tmp_path):
    extract(model.path, tmp_path / "worker", "0-1")
    with pytest.raises(OccupiedDirectoryError):
        extract(model.path, tmp_path / "worker", "1-2")
    load(tmp_path / "worker", "0-1")
    extract(model.path, tmp_path / "worker", "1-2", overwrite=True)
    assert names(tmp_path / "worker") == ["manifest.json", "mid.00001.safetensors"]


def test_the_original_is_never_the_output(model):
    before = names(model.path)
    with pytest.raises(OccupiedDirectoryError, match="what would be copied"):
        extract(model.path, model.path, "0-1", overwrite=True)
    assert names(model.path) == before


def test_layers_past_the_end_are_refused(model, tmp_path):
    with pytest.raises(LayersOutOfRangeError, match="3 layers"):
        extract(model.path, tmp_path / "worker", "3-4")
    assert not (tmp_path / "worker").exists()
