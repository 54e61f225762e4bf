"""Converting directories of safetensors shards."""

import pytest
import torch
from safetensors.torch import save_file

from llm_sepweight import BadTensorError, CorruptFileError, Manifest, NoInputFilesError, OccupiedDirectoryError, load
from llm_sepweight.safetensors_conversion import convert_safetensors_files


@pytest.fixture
def source(tmp_path):
    """Two shards that both hold a piece of layer 0."""
    path = tmp_path / "in"
    path.mkdir()
    save_file({"embed.w": torch.ones(3), "h.0.a": torch.full((2,), 5.0)}, path / "model-1.safetensors")
    save_file({"h.0.b": torch.full((2,), 6.0), "head.w": torch.zeros(1)}, path / "model-2.safetensors")
    (path / "config.json").write_text("{}")
    return path


def test_shards_become_sections(source, tmp_path, decider):
    convert_safetensors_files(in_path=str(source), out_path=str(tmp_path / "out"), decider=decider)
    assert {key: tensor.tolist() for key, tensor in load(tmp_path / "out", "f").to_dict().items()} == {
        "begin.embed.w": [1, 1, 1],
        "mid.0.a": [5, 5],
        "mid.0.b": [6, 6],
        "end.head.w": [0],
    }
    manifest = Manifest.read(tmp_path / "out")
    assert (manifest.n_layers, manifest.dtype) == (1, "float32")


def test_a_finished_output_is_refused_unless_overwritten(source, tmp_path, decider):
    convert_safetensors_files(source, tmp_path / "out", decider)
    with pytest.raises(OccupiedDirectoryError):
        convert_safetensors_files(source, tmp_path / "out", decider)
    convert_safetensors_files(source, tmp_path / "out", decider, overwrite=True)
    load(tmp_path / "out", "f")


def test_converting_in_place_is_refused(source, decider):
    with pytest.raises(OccupiedDirectoryError, match="what would be converted"):
        convert_safetensors_files(source, source, decider, overwrite=True)
    assert len(list(source.iterdir())) == 3


def test_a_tensor_in_two_shards_is_refused(source, tmp_path, decider):
    save_file({"h.0.a": torch.ones(2)}, source / "model-3.safetensors")
    with pytest.raises(BadTensorError, match=r"'h\.0\.a' is the second tensor for 'mid\.00000/a'"):
        convert_safetensors_files(source, tmp_path / "out", decider)
    assert not (tmp_path / "out").exists()


def test_a_corrupt_shard_is_named(source, tmp_path, decider):
    (source / "model-2.safetensors").write_bytes(b"not one")
    with pytest.raises(CorruptFileError, match=r"model-2\.safetensors"):
        convert_safetensors_files(source, tmp_path / "out", decider)


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_a_directory_without_shards_is_named(tmp_path, decider, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInputFilesError, match=rf"{name} has no \*\.safetensors files"):
        convert_safetensors_files(tmp_path / name, tmp_path / "out", decider)


def test_memory_does_not_grow_with_the_checkpoint(tmp_path, decider, anonymous_memory):
    megabyte = 2**20
    (tmp_path / "in").mkdir()
    for layer in range(6):
        tensor = torch.ones(8 * megabyte // 4)
        save_file({f"h.{layer}.a": tensor}, tmp_path / "in" / f"{layer}.safetensors")
        del tensor
    before, seen = anonymous_memory(), []

    def watched(key: str) -> list[str]:
        seen.append(anonymous_memory())
        return decider(key)

    convert_safetensors_files(tmp_path / "in", tmp_path / "out", watched)
    assert max(*seen, anonymous_memory()) - before < 16 * megabyte
