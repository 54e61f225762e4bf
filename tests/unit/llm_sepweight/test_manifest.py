"""The manifest and its checks."""

import hashlib
import json
import os
import re
from dataclasses import replace

import pytest

from llm_sepweight import (
    FileEntry,
    InvalidManifestError,
    LayersOutOfRangeError,
    Manifest,
    MissingSectionError,
    PartSpec,
    StrayFileError,
    UnfinishedDirectoryError,
    UnsupportedFormatError,
)

DIGEST = hashlib.sha256(b"").hexdigest()


def manifest_of(*sections: str, **changes: object) -> Manifest:
    files = {section: FileEntry(f"{section}.safetensors", 10, DIGEST) for section in sections}
    return replace(Manifest(1, "name", {"z": 1, "a": [2]}, "bfloat16", 2, files), **changes)


def edit(directory, **changes):
    path = directory / "manifest.json"
    content = json.loads(path.read_text()) | changes
    del content["sha256"]
    path.write_text(json.dumps(content))


def test_what_was_written_is_read_back(tmp_path):
    manifest = manifest_of("begin", "mid.00000", "end", tied={"end/x": "begin/y"})
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]


def test_the_text_does_not_depend_on_the_order_in_which_sections_were_written(tmp_path):
    manifest_of("end", "mid.00001", "begin", "mid.00000").write(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    manifest_of("begin", "mid.00000", "mid.00001", "end").write(tmp_path)
    assert (tmp_path / "manifest.json").read_text() == text
    assert list(json.loads(text)["files"]) == ["begin", "mid.00000", "mid.00001", "end"]
    assert text.startswith('{\n  "format_version": 1,\n')


def test_a_config_keeps_its_order_and_its_infinities(tmp_path):
    manifest_of("begin", config={"z": [0.0, float("inf")], "a": "ü"}).write(tmp_path)
    assert list(Manifest.read(tmp_path).config.items()) == [("z", [0.0, float("inf")]), ("a", "ü")]


def test_the_digest_covers_the_files_and_nothing_else():
    manifest = manifest_of("begin", "mid.00000", "end")
    assert manifest.digest == manifest_of("end", "begin", "mid.00000", config={}, model_name="other").digest
    assert len(manifest.digest) == 64
    changed = {**manifest.files, "end": FileEntry("end.safetensors", 11, DIGEST)}
    assert replace(manifest, files=changed).digest != manifest.digest
    assert manifest_of("begin", "mid.00000").digest != manifest.digest


def test_the_digest_of_a_part_covers_its_files_and_the_tensors_it_shares_with_others():
    manifest = manifest_of("begin", "mid.00000", "mid.00001", "end")

    def other(section: str) -> Manifest:
        return replace(manifest, files={**manifest.files, section: FileEntry(f"{section}.safetensors", 11, DIGEST)})

    first, last = PartSpec.of("0-1"), PartSpec.of("1-2 e")
    assert manifest.digest_of(first) == other("mid.00001").digest_of(first) != other("mid.00000").digest_of(first)
    assert manifest.digest_of(first) not in (manifest.digest, manifest.digest_of(last))
    tied = replace(manifest, tied={"end/lm_head.weight": "begin/embed_tokens.weight"})
    assert tied.digest_of(last) != replace(tied, files=other("begin").files).digest_of(last)
    assert manifest.digest_of(last) == other("begin").digest_of(last)


def test_a_directory_without_manifest_is_not_finished(tmp_path):
    with pytest.raises(UnfinishedDirectoryError, match=r"not a finished.*`splitlearn convert` again"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("name", ["x", "x.gguf", "file/x"])
def test_a_path_that_is_not_there_is_said_not_to_be_there(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnfinishedDirectoryError, match=rf"^there is no file or directory .*/{re.escape(name)}: check"):
        Manifest.read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x.gguf", r"is a GGUF file, which has to be converted first: run `splitlearn convert .*/x\.gguf -o DIR`$"),
        ("X.GGUF", "is a GGUF file"),
        (
            "x.safetensors",
            "is a file, and not a sepweight directory: give the directory that `splitlearn convert` made",
        ),
    ],
)
def test_a_file_in_place_of_a_directory_is_told_apart(tmp_path, name, said):
    (tmp_path / name).write_text("")
    with pytest.raises(UnfinishedDirectoryError, match=said):
        Manifest.read(tmp_path / name)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_unknown_format_version_says_to_upgrade_or_convert_again(tmp_path, version):
    manifest_of("begin").write(tmp_path)
    edit(tmp_path, format_version=version)
    with pytest.raises(UnsupportedFormatError, match=r"reads 1: upgrade .*, or convert"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"name": "web app"}', "\x00", "[" * 100_000, '{"format_version": 1, "model_name": "\\ud800"}'],
)
def test_what_is_no_manifest_is_refused_by_name(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InvalidManifestError, match=r"manifest\.json"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_layers": "2"},
        {"n_layers": -1},
        {"n_layers": True},
        {"n_layers": 0},
        {"n_layers": 2.0},
        {"n_layers": 10**12},
        {"model_name": "two\nlines"},
        {"dtype": "\x1b[31m"},
        {"config": "x" * 10**6},
        {"files": []},
        {"config": None},
        {"tied": {"end/x": 3}},
        {"tied": {"end/x": "end/y"}},
        {"tied": {"end/x": "begin"}},
        {"tied": {"end/x": "begin/y", "begin/y": "begin/z"}},
        {"files": {"begin": {"file": "../begin.safetensors", "size": 1, "sha256": DIGEST}}},
        {"files": {"begin": {"file": "/etc/passwd", "size": 1, "sha256": DIGEST}}},
        {"files": {"begin": {"file": ["begin.safetensors"], "size": 1, "sha256": DIGEST}}},
        {"files": {"../begin": {"file": "../begin.safetensors", "size": 1, "sha256": DIGEST}}},
        {"files": {"other": {"file": "other.safetensors", "size": 1, "sha256": DIGEST}}},
        {"files": {"begin": {"file": "begin.safetensors", "size": -1, "sha256": DIGEST}}},
        {"files": {"begin": {"file": "begin.safetensors", "size": 1.0, "sha256": DIGEST}}},
        {"files": {"begin": {"file": "begin.safetensors", "size": 1, "sha256": "abc"}}},
        {"files": {"begin": {"file": "begin.safetensors", "size": 1, "sha256": None}}},
        {"files": {"begin": {"file": "begin.safetensors", "size": 1}}},
        {"files": {"begin": "begin.safetensors"}},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_by_name(tmp_path, changes):
    manifest_of("begin", "mid.00000").write(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(InvalidManifestError, match=r"manifest\.json.*convert the model again") as caught:
        Manifest.read(tmp_path)
    assert len(str(caught.value)) < 1000


def test_a_manifest_that_was_changed_on_its_way_is_refused_by_name(tmp_path):
    path = tmp_path / "manifest.json"
    manifest_of("begin", config={"rope_theta": 10000.0, "float": float("inf"), 3: "ü"}).write(tmp_path)
    Manifest.read(tmp_path)
    path.write_text(path.read_text().replace("10000.0", "10001.0"))
    with pytest.raises(InvalidManifestError, match=r"manifest\.json: its sha256 does not match.*convert"):
        Manifest.read(tmp_path)


def test_a_manifest_without_a_digest_of_its_own_is_read(tmp_path):
    manifest_of("begin").write(tmp_path)
    edit(tmp_path, config={"edited": True})
    assert Manifest.read(tmp_path).config == {"edited": True}


def test_a_manifest_that_is_a_link_out_of_its_directory_is_refused(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    manifest_of("begin").write(tmp_path)
    (inside / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(StrayFileError, match=r"inside/manifest\.json: is a link that leaves"):
        Manifest.read(inside)


def test_a_manifest_that_is_no_file_of_reasonable_length_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(InvalidManifestError, match=r"manifest\.json is not a regular file"):
        Manifest.read(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InvalidManifestError, match=r"manifest\.json has \d+ bytes, more than"):
        Manifest.read(tmp_path)


def test_a_part_needs_its_files_and_those_that_its_ties_lead_to():
    manifest = manifest_of("begin", "mid.00000", "mid.00001", "end", tied={"end/x": "begin/y"})
    assert list(manifest.entries(PartSpec.parse("1-2 e"))) == ["begin", "mid.00001", "end"]
    assert list(manifest.entries(PartSpec.parse("b 0-1"))) == ["begin", "mid.00000"]


def test_a_section_that_was_never_written_is_named():
    with pytest.raises(MissingSectionError, match=r"'mid\.00001' is required.*begin, mid\.00000") as caught:
        manifest_of("mid.00000", "begin").entries(PartSpec.parse("b 0-2"))
    assert caught.value.section == "mid.00001"


def test_layers_past_the_end_name_the_number_of_layers():
    with pytest.raises(LayersOutOfRangeError, match="2 layers"):
        manifest_of("begin").entries(PartSpec.parse("1-3"))


ORIGIN = {"commit": "c" * 40, "conversion": "1"}


def test_the_origin_stands_for_the_weights_whatever_was_made_of_it(tmp_path):
    begun, grown = manifest_of(origin=ORIGIN), manifest_of("begin", "mid.00001", origin=ORIGIN)
    assert begun.digest == grown.digest
    assert begun.digest != manifest_of(origin={**ORIGIN, "conversion": "2"}).digest
    assert grown.digest != manifest_of("begin", "mid.00001").digest
    grown.write(tmp_path)
    assert Manifest.read(tmp_path) == grown


def test_a_manifest_without_an_origin_does_not_mention_one(tmp_path):
    manifest_of("begin").write(tmp_path)
    assert "origin" not in (tmp_path / "manifest.json").read_text()


def test_a_tie_may_lead_to_a_section_that_is_not_made_yet_only_where_sections_are_made_one_by_one():
    tied = {"end/lm_head.weight": "begin/embed_tokens.weight"}
    trunk = manifest_of("mid.00000", tied=tied, origin=ORIGIN)
    assert list(trunk.entries(PartSpec.parse("0-1"))) == ["mid.00000"]
    with pytest.raises(MissingSectionError, match="'begin' is required"):
        manifest_of("end", tied=tied, origin=ORIGIN).entries(PartSpec.parse("e"))
    with pytest.raises(InvalidManifestError, match="no section 'begin'"):
        manifest_of("mid.00000", tied=tied)


@pytest.mark.parametrize("origin", ["a text", ["a list"], {"commit": 7}, {"commit": "two\nlines"}])
def test_an_origin_that_is_not_made_of_lines_is_refused(tmp_path, origin):
    manifest_of("begin").write(tmp_path)
    edit(tmp_path, origin=origin)
    with pytest.raises(InvalidManifestError, match="origin"):
        Manifest.read(tmp_path)


def test_sizes_with_numbers_in_place_of_weights_of_4_bits_are_read_back(tmp_path):
    manifest = manifest_of("begin", "mid.00000", dequantized={"mid.00000": 30})
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert manifest.digest == manifest_of("begin", "mid.00000").digest
    manifest_of("begin").write(tmp_path)
    assert "dequantized" not in json.loads((tmp_path / "manifest.json").read_text())


@pytest.mark.parametrize(
    "dequantized", [{"mid.00001": 30}, {"begin": -1}, {"begin": True}, {"begin": "30"}, [30], None]
)
def test_such_sizes_of_sections_that_are_not_there_or_that_are_no_sizes_are_refused(tmp_path, dequantized):
    manifest_of("begin").write(tmp_path)
    edit(tmp_path, dequantized=dequantized)
    with pytest.raises(InvalidManifestError, match="dequantized"):
        Manifest.read(tmp_path)
