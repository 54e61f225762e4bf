"""Which files a machine needs for a part."""

import shutil

import pytest
import torch

from llm_sepweight import LayersOutOfRangeError, MalformedPartSpecError, get_filenames, load


def test_the_names_follow_from_the_part_spec():
    assert get_filenames("b 0-2 e") == [
        "begin.safetensors",
        "mid.00000.safetensors",
        "mid.00001.safetensors",
        "end.safetensors",
        "manifest.json",
    ]
    assert get_filenames("7-8 10-11") == ["mid.00007.safetensors", "mid.00010.safetensors", "manifest.json"]


def test_all_files_cannot_be_named_without_the_model(model):
    with pytest.raises(MalformedPartSpecError, match="give its directory"):
        get_filenames("f")
    assert get_filenames("f", model.path) == [
        "begin.safetensors",
        *(f"mid.{layer:05d}.safetensors" for layer in range(3)),
        "end.safetensors",
        "manifest.json",
    ]


def test_the_file_that_stores_a_tied_tensor_is_among_them(model):
    assert get_filenames("2-3 e", model.path) == [
        "begin.safetensors",
        "mid.00002.safetensors",
        "end.safetensors",
        "manifest.json",
    ]


def test_a_copy_of_just_these_files_loads(model, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in get_filenames("1-2 e", model.path):
        shutil.copyfile(model.path / name, copy / name)
    assert load(copy, "1-2 e").to_dict().keys() == load(model.path, "1-2 e").to_dict().keys()


def test_layers_that_the_model_lacks_are_refused(model):
    with pytest.raises(LayersOutOfRangeError):
        get_filenames("2-4", model.path)


def test_pickles_are_named_as_they_are_there(tmp_path):
    flat, nested = tmp_path / "flat", tmp_path / "nested"
    (nested / "mid" / "0").mkdir(parents=True)
    flat.mkdir()
    torch.save({"a": torch.ones(1)}, flat / "mid.00000.pth")
    torch.save(torch.ones(1), nested / "mid" / "0" / "a.pth")
    assert get_filenames("0-1", flat) == ["mid.00000.pth"]
    assert get_filenames("0-1", nested) == ["mid/0/a.pth"]


def test_a_range_that_no_model_has_is_refused_without_listing_it():
    with pytest.raises(MalformedPartSpecError, match="no model has more than 100000 layers"):
        get_filenames("0-999999999")
