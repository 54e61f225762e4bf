"""Names of sections, files and places."""

import pytest

from llm_sepweight.errors import BadSectionError
from llm_sepweight.layout import (
    file_name,
    is_own_file,
    layer_count,
    layer_of,
    place,
    section_name,
    section_of_file,
    section_order,
    split_place,
)


@pytest.mark.parametrize("layer", [0, 7, 99_999, 100_000])
def test_a_section_name_gives_its_layer_back(layer):
    assert layer_of(section_name(layer)) == layer


def test_sections_are_numbered_with_five_digits():
    assert section_name(7) == "mid.00007"
    assert file_name("mid.00007") == "mid.00007.safetensors"
    assert file_name("begin", ".pth") == "begin.pth"


@pytest.mark.parametrize("name", ["", "mid", "mid.7", "mid.000007", "mid.0000x", "start", "../end", "Begin"])
def test_anything_else_is_no_section(name):
    with pytest.raises(BadSectionError):
        layer_of(name)
    assert section_of_file(f"{name}.safetensors") is None


def test_a_negative_layer_has_no_section():
    with pytest.raises(BadSectionError, match="-1"):
        section_name(-1)


def test_sections_sort_as_the_model_runs():
    names = ["end", "mid.100000", "mid.00002", "begin", "mid.00010"]
    assert sorted(names, key=section_order) == ["begin", "mid.00002", "mid.00010", "mid.100000", "end"]


def test_layers_are_counted_to_the_last():
    assert layer_count(["begin", "mid.00004", "mid.00001", "end"]) == 5
    assert layer_count(["begin", "end"]) == 0


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("begin.safetensors", True),
        ("mid.00003.safetensors.tmp", True),
        ("manifest.json", True),
        ("manifest.json.tmp", True),
        ("model.safetensors", False),
        ("begin", False),
        ("begin.pth", False),
        ("download.tmp", False),
        ("tokenizer.json", False),
    ],
)
def test_own_files_are_told_from_foreign_ones(name, own):
    assert is_own_file(name) is own


def test_a_place_names_section_and_tensor():
    assert place("end", "lm_head.weight") == "end/lm_head.weight"
    assert split_place("mid.00001/a/b") == ("mid.00001", "a/b")


@pytest.mark.parametrize("text", ["end", "end/", "/x", "nowhere/x"])
def test_half_a_place_is_refused(text):
    with pytest.raises(BadSectionError):
        split_place(text)
