"""Converting directories of torch pickles."""

import weakref

import pytest
import torch

from llm_sepweight import NoInputFilesError, UntrustedPickle, load
from llm_sepweight.conversion import convert_shards, shards
from llm_sepweight.pth_conversion import convert_pth_files


class Settings:
    """Something that a training run pickles beside its weights."""


@pytest.fixture
def source(tmp_path):
    """Two shards that both hold a piece of layer 0, the second in torch's older form."""
    path = tmp_path / "in"
    path.mkdir()
    first = {"embed.w": torch.ones(3), "h.0.a": torch.full((2,), 5.0)}
    second = {"h.0.b": torch.full((2,), 6.0), "head.w": torch.zeros(1)}
    torch.save(first, path / "model-1.pth")
    torch.save(second, path / "model-2.pth", _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("extension", ["pth", "bin"])
def test_pickles_become_sections(source, tmp_path, decider, extension):
    for file in list(source.iterdir()):
        file.rename(file.with_suffix(f".{extension}"))
    convert_pth_files(in_path=source, out_path=tmp_path / "out", decider=decider, extension=extension)
    assert {key: tensor.tolist() for key, tensor in load(tmp_path / "out", "f").to_dict().items()} == {
        "begin.embed.w": [1, 1, 1],
        "mid.0.a": [5, 5],
        "mid.0.b": [6, 6],
        "end.head.w": [0],
    }


def test_the_extension_is_pth_unless_said_otherwise(source, tmp_path, decider):
    with pytest.raises(NoInputFilesError, match=r"\*\.bin"):
        convert_pth_files(source, tmp_path / "out", decider, extension="bin")
    convert_pth_files(source, tmp_path / "out", decider)


def test_a_pickle_of_other_things_is_refused_by_name(source, tmp_path, decider):
    torch.save(Settings(), source / "training_args.pth")
    with pytest.raises(UntrustedPickle, match=r"training_args\.pth.*Settings"):
        convert_pth_files(source, tmp_path / "out", decider)
    assert not (tmp_path / "out").exists()


def test_a_shard_is_released_before_another_one_is_opened(source, tmp_path, decider):
    opened: list[weakref.ref[torch.Tensor]] = []

    def open_shard(file):
        assert not [ref for ref in opened if ref() is not None]
        tensors = torch.load(file, weights_only=True)
        opened.extend(weakref.ref(tensor) for tensor in tensors.values())
        return tensors

    convert_shards(shards(source, "pth"), open_shard, tmp_path / "out", decider)
    assert len(opened) > 4
    load(tmp_path / "out", "f")
