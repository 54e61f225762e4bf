import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm_sepweight import CorruptFileError, MissingFileError
from splitlearn import ModelFactory
from splitlearn.errors import BadCheckpoint
from splitlearn.split_models.saving import SavedPart, metadata_path, read_weights, write_weights
from support.handmade import HandmadeTrunk, Settings

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "safetensors"])
def test_weights_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / "new" / "folder" / f"x.{suffix}"
    write_weights(file, TENSORS)
    back = read_weights(file)
    assert back.keys() == TENSORS.keys()
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in TENSORS.items())
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_files_are_what_torch_and_safetensors_read(tmp_path: Path) -> None:
    write_weights(tmp_path / "x.pt", TENSORS)
    write_weights(tmp_path / "x.safetensors", TENSORS)
    assert torch.equal(torch.load(tmp_path / "x.pt")["a.weight"], TENSORS["a.weight"])
    assert torch.equal(load_file(tmp_path / "x.safetensors")["b"], TENSORS["b"])


def test_a_piece_of_a_large_tensor_is_saved_alone(tmp_path: Path) -> None:
    write_weights(tmp_path / "x.pt", {"piece": torch.zeros(1_000_000)[:10]})
    assert (tmp_path / "x.pt").stat().st_size < 10_000


def test_another_suffix_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"\.safetensors or \.pt, \.pth, \.bin"):
        write_weights(tmp_path / "x.npz", TENSORS)
    assert not list(tmp_path.iterdir())


def test_metadata_say_what_the_weights_are(tmp_path: Path) -> None:
    HandmadeTrunk(Settings(), 1, 3).save_split_model(tmp_path / "mine_1-3_trunk.pt")
    assert json.loads((tmp_path / "mine_1-3_trunk_metadata.json").read_text()) == {
        "format_version": 1,
        "model_type": "handmade",
        "part": "trunk",
        "start_layer": 1,
        "end_layer": 3,
        "dtype": "float32",
        "parameters": 2 * (32 + 48 * 17 + 16 * 17),
        "config": vars(Settings()),
    }


def test_missing_or_damaged_metadata_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    with pytest.raises(BadCheckpoint, match=r"x_metadata\.json is missing"):
        SavedPart.read(file)
    for damage in ("{", "[]", '{"format_version": 1}', "", "[" * 100_000):
        metadata_path(file).write_text(damage)
        with pytest.raises(BadCheckpoint, match=r"x_metadata\.json is not the metadata"):
            SavedPart.read(file)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("part", "middle"),
        ("part", ["trunk"]),
        ("model_type", None),
        ("start_layer", "1"),
        ("end_layer", [3]),
        ("config", []),
        ("config", "x" * 10_000),
    ],
)
def test_metadata_with_a_field_of_another_kind_are_refused_in_one_line(
    tmp_path: Path, field: str, value: object
) -> None:
    HandmadeTrunk(Settings(), 1, 3).save_split_model(tmp_path / "x.pt")
    path = metadata_path(tmp_path / "x.pt")
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(
        BadCheckpoint, match=rf"x_metadata\.json is not the metadata of a saved part: {field} is"
    ) as said:
        ModelFactory.load_split_model(tmp_path / "x.pt")
    assert len(str(said.value)) < 500


def test_metadata_of_another_version_are_refused_with_both(tmp_path: Path) -> None:
    HandmadeTrunk(Settings(), 1, 3).save_split_model(tmp_path / "x.pt")
    path = metadata_path(tmp_path / "x.pt")
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(BadCheckpoint, match="version 9, this version of splitlearn reads 1"):
        SavedPart.read(tmp_path / "x.pt")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_truncated_weights_are_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"x.{suffix}"
    write_weights(file, TENSORS)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CorruptFileError, match=f"x.{suffix}"):
        read_weights(file)
    file.unlink()
    with pytest.raises(MissingFileError):
        read_weights(file)
