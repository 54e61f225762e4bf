"""Which files of a checkpoint are read, and what is said of those that cannot be."""

import io
import json
import os
import pickle
import random
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.weight_files import stored_tensors
from splitlearn.errors import BadCheckpoint
from support.tiny_models import save_checkpoint

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>401</title></head></html>"


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_llama: PreTrainedModel) -> Path:
    return save_checkpoint(tmp_path / "checkpoint", tiny_llama)


@pytest.fixture
def pickled(checkpoint: Path) -> Path:
    """The file of a checkpoint that has no other."""
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    return checkpoint / "pytorch_model.bin"


def refusal(checkpoint: Path) -> str:
    with pytest.raises(BadCheckpoint) as caught:
        prepare(str(checkpoint))
    said = str(caught.value)
    assert "\n" not in said
    assert "weights_only" not in said
    return said


def folder_of(tmp_path: Path, *names: str) -> Path:
    """A folder with one tensor in each file, called as the file; indices name the shard that is next to them."""
    for name in names:
        file = tmp_path / name
        tensors = {name: torch.ones(2)}
        if name.endswith(".index.json"):
            shard = f"shard.{name.split('.')[1]}"
            file.write_text(json.dumps({"weight_map": {shard: shard}}))
            file, tensors = tmp_path / shard, {shard: torch.ones(2)}
        if file.suffix == ".safetensors":
            save_file(tensors, file)
        else:
            torch.save(tensors, file)
    return tmp_path


SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OLD, OLD_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


@pytest.mark.parametrize(
    ("names", "read"),
    [
        ([SINGLE, INDEX, OLD, OLD_INDEX], SINGLE),
        ([INDEX, OLD, OLD_INDEX], "shard.safetensors"),
        ([OLD, OLD_INDEX], OLD),
        ([OLD_INDEX], "shard.bin"),
    ],
)
def test_files_are_looked_for_in_the_order_of_transformers(tmp_path: Path, names: list[str], read: str) -> None:
    assert list(stored_tensors(folder_of(tmp_path, *names))) == [read]


def test_a_stale_index_beside_the_whole_file_is_not_read(tmp_path: Path, checkpoint: Path) -> None:
    (checkpoint / INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    expected = load_file(checkpoint / SINGLE)["model.norm.weight"]
    assert torch.equal(stored_tensors(checkpoint)["model.norm.weight"].read(), expected)


def test_of_two_shards_with_one_name_the_index_says_which_is_meant(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        save_file({"w": torch.tensor([value]), name: torch.ones(1)}, tmp_path / f"{name}.safetensors")
    homes = {"a": "a.safetensors", "w": "b.safetensors", "c": "c.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": homes}))
    assert stored_tensors(tmp_path)["w"].read().item() == 2.0


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_is_no_model(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_text("{}")
    assert "merge it into its base model" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("model.gguf", "give the .gguf file itself"),
        ("tf_model.h5", "tf_model.h5, which is not read"),
        ("README.md", ""),
    ],
)
def test_a_folder_with_other_weights_only_is_told_what_it_has(checkpoint: Path, name: str, hint: str) -> None:
    (checkpoint / SINGLE).rename(checkpoint / name)
    assert "neither model.safetensors nor pytorch_model.bin" in (said := refusal(checkpoint))
    assert hint in said


@pytest.mark.parametrize("kind", ["fifo", "folder", "dangling link"])
def test_what_is_no_file_is_not_opened(checkpoint: Path, kind: str) -> None:
    file = checkpoint / SINGLE
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("nowhere.safetensors")
    assert "neither model.safetensors" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty; download it again"),
        (LFS, "git lfs pull"),
        (PAGE, "web page"),
        (b"\x1f\x8b\x08\x00whatever", "gzip"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b'{"error": "not found"}', "download it again"),
        (b"abc", "download it again"),
    ],
)
@pytest.mark.parametrize("name", [SINGLE, OLD])
def test_a_file_that_is_something_else_is_named_and_said_what_it_is(
    checkpoint: Path, name: str, content: bytes, reason: str
) -> None:
    (checkpoint / SINGLE).unlink()
    (checkpoint / name).write_bytes(content)
    said = refusal(checkpoint)
    assert said.startswith(str(checkpoint / name))
    assert reason in said.replace("Download", "download")


def cut_off(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def inside_the_header(raw: bytes) -> bytes:
    return raw[:100]


def header_that_lies(raw: bytes) -> bytes:
    return (2**62).to_bytes(8, "little") + raw[8:]


def header_too_short(raw: bytes) -> bytes:
    return (3).to_bytes(8, "little") + raw[8:]


def bytes_behind_the_end(raw: bytes) -> bytes:
    return raw + b"and more"


@pytest.mark.parametrize(
    "damage", [cut_off, inside_the_header, header_that_lies, header_too_short, bytes_behind_the_end]
)
def test_half_a_safetensors_file_is_named(checkpoint: Path, damage: Any) -> None:
    file = checkpoint / SINGLE
    file.write_bytes(damage(file.read_bytes()))
    assert refusal(checkpoint).startswith(f"{file} cannot be read as safetensors")


@pytest.mark.parametrize("old_format", [False, True])
def test_half_a_pickle_is_named(pickled: Path, old_format: bool) -> None:
    state = torch.load(pickled)
    torch.save(state, pickled, _use_new_zipfile_serialization=not old_format)
    pickled.write_bytes(cut_off(pickled.read_bytes()))
    assert refusal(pickled.parent).startswith(str(pickled))


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/run-by-a-pickle",)


def archive() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as zipped:
        zipped.writestr("a.txt", "a")
    return made.getvalue()


@pytest.mark.parametrize(
    "content", [archive(), pickle.dumps(Evil(), 2), pickle.dumps({"w": [1.0]}, 2), b"\x80\x02", b"\x80\x02}q\x00."]
)
def test_a_file_that_holds_no_tensors_is_named_and_nothing_in_it_runs(pickled: Path, content: bytes) -> None:
    pickled.write_bytes(content)
    assert str(pickled.parent) in refusal(pickled.parent)
    assert not Path("/tmp/run-by-a-pickle").exists()


@pytest.mark.parametrize("state", [[torch.ones(1)], {"model": {"w": torch.ones(1)}, "epoch": 3}, {7: torch.ones(1)}])
def test_a_pickle_of_more_than_a_state_dict_is_named(pickled: Path, state: Any) -> None:
    torch.save(state, pickled)
    assert refusal(pickled.parent).startswith(f"{pickled} ")


def test_an_ordered_state_dict_is_one(pickled: Path) -> None:
    torch.save(OrderedDict(torch.load(pickled)), pickled)
    prepare(str(pickled.parent))


def said_of(checkpoint: Path) -> str:
    try:
        stored_tensors(checkpoint)
    except BadCheckpoint as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", [SINGLE, OLD])
def test_bytes_turned_at_random_end_in_one_line_or_in_tensors(checkpoint: Path, name: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    state = {key: tensor[:2].clone() for key, tensor in load_file(checkpoint / SINGLE).items()}
    (checkpoint / SINGLE).unlink()
    file = checkpoint / name
    if name == SINGLE:
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=draw.random() < 0.5)
    raw = file.read_bytes()
    for _ in range(60):
        damaged = bytearray(raw)
        for _ in range(draw.randrange(1, 9)):
            damaged[draw.randrange(min(len(raw), 4000))] = draw.randrange(256)
        file.write_bytes(damaged)
        said = said_of(checkpoint)
        assert "\n" not in said
        assert "weights_only" not in said


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "/tmp/x.safetensors", "sub/../../x.safetensors", "\0.safetensors"]
)
def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path: Path, checkpoint: Path, name: str) -> None:
    (checkpoint / SINGLE).rename(tmp_path / SINGLE)
    (checkpoint / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    assert INDEX in refusal(checkpoint)


@pytest.mark.parametrize("content", [{"weight_map": {"a": 3}}, {"weight_map": []}, {"weight_map": {}}, [], {}])
def test_an_index_of_another_shape_is_named(checkpoint: Path, content: Any) -> None:
    (checkpoint / SINGLE).unlink()
    (checkpoint / INDEX).write_text(json.dumps(content))
    assert "index of shards" in refusal(checkpoint)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    (checkpoint / SINGLE).rename(tmp_path / "elsewhere.safetensors")
    (checkpoint / SINGLE).symlink_to(tmp_path / "elsewhere.safetensors")
    assert "link out of the checkpoint's folder" in refusal(checkpoint)


def test_a_link_inside_the_folder_is_followed(checkpoint: Path) -> None:
    (checkpoint / SINGLE).rename(checkpoint / "weights")
    (checkpoint / SINGLE).symlink_to("weights")
    prepare(str(checkpoint))


def test_the_hubs_cache_keeps_files_behind_links_to_its_blobs(tmp_path: Path, checkpoint: Path) -> None:
    model = tmp_path / "models--some-org--tiny.model-1"
    snapshot = model / "snapshots" / "0123456789abcdef"
    (model / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(checkpoint.iterdir())):
        shutil.copy(file, model / "blobs" / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    conversion = prepare(str(snapshot))
    assert conversion.model_name == "tiny.model-1"
    assert "tokenizer.json" in conversion.tokenizer_files
    conversion.write(tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer.json").is_symlink()

    (snapshot / SINGLE).unlink()
    (snapshot / SINGLE).symlink_to(checkpoint / SINGLE)
    assert "link out of the checkpoint's folder" in refusal(snapshot)
