"""Directories of pickles, in the forms that the original library wrote."""

import pytest
import torch

from llm_sepweight import CorruptFileError, LayersOutOfRangeError, MissingFileError, UntrustedPickle, load
from llm_sepweight.legacy import legacy_files


class Settings:
    """Something that is no tensor."""


@pytest.fixture
def nested(tmp_path):
    """One file per tensor: start, two layers, end."""
    for folder, name, value in (
        ("start", "word_embeddings.weight", 1.0),
        ("mid/0", "mlp.weight", 2.0),
        ("mid/0", "ln.weight", 3.0),
        ("mid/1", "mlp.weight", 4.0),
        ("end", "lm_head.weight", 5.0),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        torch.save(torch.full((2,), value), tmp_path / folder / f"{name}.pth")
    return tmp_path


def test_a_tree_with_one_file_per_tensor_loads_like_any_other(nested):
    loaded = {key: tensor.tolist() for key, tensor in load(nested, "f").to_dict().items()}
    assert loaded == {
        "begin.word_embeddings.weight": [1, 1],
        "mid.0.ln.weight": [3, 3],
        "mid.0.mlp.weight": [2, 2],
        "mid.1.mlp.weight": [4, 4],
        "end.lm_head.weight": [5, 5],
    }
    assert list(load(nested, "1-2 e").to_dict()) == ["mid.1.mlp.weight", "end.lm_head.weight"]


def test_a_tree_knows_its_depth_and_its_gaps(nested):
    with pytest.raises(LayersOutOfRangeError, match="2 layers"):
        load(nested, "1-3")
    for file in (nested / "start").iterdir():
        file.unlink()
    with pytest.raises(MissingFileError, match=r"begin\.pth"):
        load(nested, "b")


def test_a_tree_is_read_weights_only(nested):
    torch.save(Settings(), nested / "mid" / "1" / "mlp.weight.pth")
    with pytest.raises(UntrustedPickle, match=r"mlp\.weight\.pth.*Settings"):
        load(nested, "1-2")
    torch.save({"a": torch.ones(1)}, nested / "mid" / "0" / "mlp.weight.pth")
    with pytest.raises(CorruptFileError, match="something other than one tensor"):
        load(nested, "0-1")


def test_a_layer_number_before_every_name_is_taken_off(tmp_path):
    torch.save({"h.3.mlp.weight": torch.ones(1), "h.3.ln.weight": torch.ones(1)}, tmp_path / "mid.00003.pth")
    assert list(load(tmp_path, "3-4").to_dict()) == ["mid.3.mlp.weight", "mid.3.ln.weight"]


def test_names_that_only_look_like_another_layer_stay(tmp_path):
    torch.save({"h.4.mlp.weight": torch.ones(1), "ln.weight": torch.ones(1)}, tmp_path / "mid.00003.pth")
    assert list(load(tmp_path, "3-4").to_dict()) == ["mid.3.h.4.mlp.weight", "mid.3.ln.weight"]


def test_other_directories_hold_none(tmp_path):
    (tmp_path / "mid").mkdir()
    (tmp_path / "mid" / "notes").mkdir()
    torch.save({}, tmp_path / "optimizer.pth")
    assert legacy_files(tmp_path) == {}
    assert legacy_files(tmp_path / "nowhere") == {}


def test_folders_that_are_no_layers_are_left_alone(nested):
    for name in ("007", "9999999999", "01", "last"):
        folder = nested / "mid" / name
        folder.mkdir()
        torch.save(torch.zeros(2), folder / "mlp.weight.pth")
    assert sorted(legacy_files(nested)) == ["begin", "end", "mid.00000", "mid.00001"]
    assert len(load(nested, "f").to_dict()) == 5
