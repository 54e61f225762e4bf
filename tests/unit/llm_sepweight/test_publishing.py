"""Claiming an output directory: what is refused is refused before anything is changed, and failures leave nothing."""

import errno
import os
import resource
import shutil
from types import SimpleNamespace

import pytest
import torch

from llm_sepweight import (
    CannotWriteError,
    Manifest,
    NoSpaceError,
    OccupiedDirectoryError,
    SepweightWriter,
    TensorSource,
    extract,
    verify,
)
from llm_sepweight.publishing import synced_file, withdraw_manifest


def ones(name, *shape):
    return TensorSource.of(name, torch.ones(shape))


def write(out, beside, last):
    """A run of two sections with a file beside them."""
    with SepweightWriter(out) as writer:
        writer.write_section("begin", [ones("w", 9)])
        writer.write_beside(beside, "tokenizer.json")
        writer.write_beside(beside, "templates/a.jinja")
        writer.write_section("end", [last])


def names(path):
    return sorted(file.name for file in path.iterdir())


@pytest.fixture
def room(monkeypatch):
    """Says how many bytes are free, whatever the disk."""

    def of(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    return of


def test_what_goes_beside_the_weights_is_copied_from_a_file_or_given_as_bytes(tmp_path):
    (tmp_path / "vocab").write_bytes(b"a\0b")
    with SepweightWriter(tmp_path / "out") as writer:
        writer.write_section("begin", [ones("w", 9)])
        writer.write_beside(tmp_path / "vocab", "tokenizer.json")
        writer.write_beside(b"c\0d", "templates/a.jinja")
        writer.commit(model_name="", config={}, dtype="float32", n_layers=0, tied={})
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == b"a\0b"
    assert (tmp_path / "out" / "templates" / "a.jinja").read_bytes() == b"c\0d"


def test_too_little_room_is_seen_before_anything_is_made(tmp_path, room):
    room(1000)
    with pytest.raises(NoSpaceError) as caught:
        SepweightWriter(tmp_path / "deep" / "out", needed=1001)
    assert (caught.value.needed, caught.value.free) == (1001, 1000)
    assert names(tmp_path) == []
    SepweightWriter(tmp_path / "deep" / "out", needed=1000)


def test_what_is_replaced_stays_until_the_end_and_makes_no_room(model, room):
    before = names(model.path)
    room(99)
    with pytest.raises(NoSpaceError):
        SepweightWriter(model.path, overwrite=True, needed=100)
    assert names(model.path) == before
    verify(model.path)


def test_what_a_killed_run_left_makes_room(model, room):
    withdraw_manifest(model.path)
    size = sum(file.stat().st_size for file in model.path.iterdir())
    room(0)
    with pytest.raises(NoSpaceError):
        SepweightWriter(model.path, needed=size + 1)
    SepweightWriter(model.path, needed=size)
    assert names(model.path) == []


def test_a_copy_needs_room_too(model, tmp_path, room):
    room(10)
    with pytest.raises(NoSpaceError):
        extract(model.path, tmp_path / "worker", "0-2")
    assert not (tmp_path / "worker").exists()


@pytest.mark.parametrize("out", ["in", "in/parts", "in/../in", "link", "link/deep/er"])
def test_the_output_is_not_the_source_nor_inside_it(tmp_path, out):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    with pytest.raises(OccupiedDirectoryError, match="what would be converted"):
        SepweightWriter(tmp_path / out, overwrite=True, source=tmp_path / "in")
    assert names(tmp_path / "in") == []


def test_the_output_may_hold_the_source(tmp_path):
    (tmp_path / "in").mkdir()
    SepweightWriter(tmp_path, source=tmp_path / "in")


@pytest.mark.parametrize("out", [".", "parts", "../link"])
def test_a_copy_does_not_lie_in_the_original(model, tmp_path, out):
    (model.path.parent / "link").symlink_to(model.path)
    with pytest.raises(OccupiedDirectoryError, match="what would be copied"):
        extract(model.path, model.path / out, "0-1", overwrite=True)
    verify(model.path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_the_file_and_leaves_none(tmp_path, number):
    with pytest.raises(CannotWriteError, match=os.strerror(number)) as caught, synced_file(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert caught.value.file == tmp_path / "x"
    assert names(tmp_path) == []


def test_another_failure_of_the_block_is_not_blamed_on_the_disk(tmp_path):
    with pytest.raises(FileNotFoundError), synced_file(tmp_path / "x"):
        raise FileNotFoundError(errno.ENOENT, "No such file", "what was read")


def test_a_file_that_the_system_does_not_let_grow_is_named_and_the_run_leaves_nothing(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(CannotWriteError, match=r"end\.safetensors"):
            write(tmp_path / "out", tmp_path / "tokenizer.json", ones("w", 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["tokenizer.json"]


def test_a_run_that_fails_keeps_what_others_put_there(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "vocab.txt").write_text("mine too")

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, tmp_path / "vocab.txt", TensorSource("w", torch.float32, (9,), interrupted))
    assert names(tmp_path) == ["notes.txt", "vocab.txt"]


def test_a_run_that_ends_keeps_everything(tmp_path):
    with SepweightWriter(tmp_path / "out") as writer:
        writer.write_section("begin", [ones("w", 9)])
        writer.commit(model_name="", config={}, dtype="float32", n_layers=0, tied={})
    assert Manifest.read(tmp_path / "out").files.keys() == {"begin"}
