"""Opening pickles: only tensors come through, whatever the file pretends to be."""

import zipfile

import pytest
import torch

from llm_sepweight import CorruptFileError, UntrustedPickle
from llm_sepweight.mapped_file import open_pickle

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
    with pytest.raises(CorruptFileError, match="no torch file"):
        open_pickle(tmp_path / "x")


@pytest.mark.parametrize("content", [torch.ones(1), {"a": 1}, {0: torch.ones(1)}, {"model": {}}])
def test_anything_but_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x")
    with pytest.raises(CorruptFileError, match="something else than a dict"):
        open_pickle(tmp_path / "x")
