"""Opening pickles: only tensors come through, whatever the file pretends to be."""

import pickle
import random
import zipfile

import pytest
import torch

from llm_sepweight import CorruptFileError, FileError, UntrustedPickle, load
from llm_sepweight.torch_file import open_pickle, open_pickled_tensor

UNKNOWN_OPERATION = b"\x80\x02i__builtin__\neval\n."
CALL_OF_SYSTEM = b"\x80\x02cposix\nsystem\n(X\x04\x00\x00\x00exitR."


def with_pickle(path, payload):
    """A torch file whose pickle is `payload`."""
    torch.save({"a": torch.ones(1)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, payload if name.endswith("data.pkl") else content)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_come_through_from_both_forms_of_torch_file(tmp_path, zipped):
    torch.save({"a": torch.arange(3)}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    assert open_pickle(tmp_path / "x")["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("payload", "names"), [(UNKNOWN_OPERATION, ()), (CALL_OF_SYSTEM, ("posix.system",))])
def test_a_crafted_pickle_is_refused_and_not_run(tmp_path, payload, names):
    with_pickle(tmp_path / "x", payload)
    with pytest.raises(UntrustedPickle) as caught:
        open_pickle(tmp_path / "x")
    assert caught.value.unsafe == names
    assert caught.value.file == tmp_path / "x"


def test_a_bare_pickle_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(CALL_OF_SYSTEM)
    with pytest.raises(UntrustedPickle):
        open_pickle(tmp_path / "x")


@pytest.mark.parametrize("keep", [0, 300])
def test_a_truncated_torch_file_is_corrupt(tmp_path, keep):
    torch.save({"a": torch.ones(100)}, tmp_path / "x")
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:keep])
    with pytest.raises(CorruptFileError, match="not a torch file"):
        open_pickle(tmp_path / "x")


@pytest.mark.parametrize("content", [torch.ones(1), {"a": 1}, {0: torch.ones(1)}, {"model": {}}])
def test_anything_but_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x")
    with pytest.raises(CorruptFileError, match="something other than a dict"):
        open_pickle(tmp_path / "x")


def said_of(path, read):
    """The one line that a file ends in, empty if it is read."""
    try:
        read(path)
    except FileError as error:
        return str(error)
    return ""


def damaged(raw, draw):
    """Cut off, with a hole in it, or with some bytes turned."""
    kind = draw.random()
    if kind < 0.3:
        return raw[: draw.randrange(len(raw))]
    at = draw.randrange(len(raw))
    if kind < 0.4:
        return raw[:at] + raw[at + draw.randrange(1, 30) :]
    turned = bytearray(raw)
    for _ in range(draw.choice([1, 1, 2, 8])):
        turned[draw.randrange(len(raw))] = draw.randrange(256)
    return bytes(turned)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("read", [open_pickle, open_pickled_tensor])
def test_a_file_damaged_at_random_ends_in_one_line_that_names_it_or_in_tensors(tmp_path, zipped, read):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    state = {"a": torch.arange(3.0), "b.w": torch.ones(4, 4, dtype=torch.bfloat16)}
    content = state if read is open_pickle else state["b.w"]
    path = tmp_path / "begin.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    raw = path.read_bytes()
    refused = 0
    for _ in range(120):
        path.write_bytes(damaged(raw, draw))
        said = said_of(path, read)
        assert said.isprintable()
        assert said.startswith(f"{path}: " if said else "")
        assert "weights_only" not in said
        assert not said or ("download it again" in said or "holds something other than" in said)
        refused += bool(said)
    assert refused > 40


# what the random damage met once, each with another class of error
OTHER_DISKS = b"PK\x06\x07" + bytes(4) + bytes(8) + b"\x09\0\0\0" + b"PK\x05\x06" + bytes(18)
NO_UTF8 = b"\x80\x02}q\x00X\x01\x00\x00\x00\xffK\x01s."


class Elsewhere:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02h\x1c.",
        b"not a pickle",
        b"version https://git-lfs.github.com/spec/v1",
        b"<!DOCTYPE html>",
        OTHER_DISKS,
        NO_UTF8,
        pickle.dumps({"w": [1.0]}),
        pickle.dumps(Elsewhere()),
    ],
)
@pytest.mark.parametrize("read", [open_pickle, open_pickled_tensor])
def test_a_foreign_file_is_named_in_one_line_and_not_run(tmp_path, capsys, read, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    said = said_of(path, read)
    assert said.startswith(f"{path}: ")
    assert said.isprintable()
    assert "weights_only" not in said
    assert capsys.readouterr().out == ""


def test_a_pickle_whose_names_are_long_or_cannot_be_shown_is_refused_in_one_short_line(tmp_path):
    with_pickle(tmp_path / "x", b"\x80\x02c" + b"a\x1b" * 1000 + b"\nsystem\n.")
    said = said_of(tmp_path / "x", open_pickle)
    assert said.isprintable()
    assert len(said) < 1000


def test_a_directory_of_pickles_with_a_damaged_one_names_it(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "begin.pth")
    (tmp_path / "end.pth").write_bytes((tmp_path / "begin.pth").read_bytes()[:-30])
    load(tmp_path, "b")
    with pytest.raises(CorruptFileError, match=r"end\.pth"):
        load(tmp_path, "e")


def test_no_file_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_pickle(tmp_path / "x")
