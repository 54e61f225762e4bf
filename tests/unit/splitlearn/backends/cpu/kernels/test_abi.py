import ctypes
import logging
import shutil
import subprocess
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from splitlearn.backends.cpu.kernels import INSTRUCTION_SETS, Kernels, abi, kernels, structs

COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
Fields = Sequence[tuple[str, type]]


def changed(struct: type[ctypes.Structure], fields: Fields) -> list[type[ctypes.Structure]]:
    """All structures, one of them with other fields."""
    other = type(struct.__name__, (ctypes.Structure,), {"_fields_": fields, "__doc__": struct.__doc__})
    return [other if each is struct else each for each in abi.STRUCTS]


def swapped(fields: Fields, one: str, other: str) -> Fields:
    names = {one: other, other: one}
    return [(names.get(name, name), kind) for name, kind in fields]


def retyped(fields: Fields, name: str, kind: type) -> Fields:
    return [(each, kind if each == name else its) for each, its in fields]


# none of them changes the size of its structure
CHANGES = {
    "swapped numbers": changed(structs.Layer, swapped(structs.Layer._fields_, "n_heads", "n_kv_heads")),
    "swapped addresses": changed(structs.AttendCall, swapped(structs.AttendCall._fields_, "queries", "outputs")),
    "another type": changed(structs.Linear, retyped(structs.Linear._fields_, "scales", ctypes.c_int64)),
    "another pointer": changed(structs.Linear, retyped(structs.Linear._fields_, "scales", structs._IN_FLOAT)),
    "another number": changed(structs.RowNorm, retyped(structs.RowNorm._fields_, "epsilon", ctypes.c_int32)),
}


def compiled(folder: Path, header: str) -> Path:
    """A library with the ABI of this header, and without any kernel."""
    assert COMPILER is not None
    (folder / "abi.h").write_text(header)
    shutil.copy(abi.HEADER.with_name("abi.c"), folder)
    library = folder / f"_kernels_{INSTRUCTION_SETS[0]}{EXTENSION_SUFFIXES[0]}"
    subprocess.run([COMPILER, "-shared", "-fPIC", folder / "abi.c", "-o", library], check=True, capture_output=True)
    return library


def test_the_committed_header_is_generated_from_the_structures() -> None:
    assert abi.HEADER.read_text() == abi.header(), "run `make kernels-header`"


@needs_compiler
@pytest.mark.parametrize("change", CHANGES)
def test_a_library_with_other_fields_is_refused(tmp_path: Path, change: str) -> None:
    library = compiled(tmp_path, abi.header(CHANGES[change]))
    with pytest.raises(ImportError, match=r"other sources \((Layer|AttendCall|Linear|RowNorm)\."):
        Kernels(ctypes.CDLL(str(library)), "avx2")


@needs_compiler
@pytest.mark.parametrize("change", CHANGES)
def test_a_header_whose_fields_were_changed_by_hand_is_not_compiled(tmp_path: Path, change: str) -> None:
    definitions = abi.header(CHANGES[change]).partition("#define SPLITLEARN_ABI ")[0]
    mixed = [
        ours if ours.startswith(("FIELD(", "_Static_assert(")) else theirs
        for ours, theirs in zip(abi.header().splitlines(), definitions.splitlines(), strict=False)
    ]
    with pytest.raises(subprocess.CalledProcessError) as failure:
        compiled(tmp_path, "\n".join([*mixed, '#define SPLITLEARN_ABI ""', "#endif", ""]))
    assert b"static assertion failed" in failure.value.stderr


@needs_compiler
def test_a_library_of_the_time_before_the_abi_was_described_is_refused(tmp_path: Path) -> None:
    assert COMPILER is not None
    (tmp_path / "old.c").write_text("void splitlearn_linear(void) {}\n")
    subprocess.run([COMPILER, "-shared", "-fPIC", tmp_path / "old.c", "-o", tmp_path / "old.so"], check=True)
    with pytest.raises(ImportError, match="install the package again"):
        Kernels(ctypes.CDLL(str(tmp_path / "old.so")), "avx2")


@needs_compiler
def test_torch_does_the_work_of_a_library_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled(tmp_path, abi.header(CHANGES["swapped numbers"]))
    monkeypatch.setenv("SPLITLEARN_KERNELS_DIR", str(tmp_path))
    monkeypatch.delenv("SPLITLEARN_KERNELS", raising=False)
    with caplog.at_level(logging.WARNING):
        assert kernels.__wrapped__() is None
    assert "Layer.n_kv_heads: int64_t at 392, here Layer.n_heads: int64_t at 392" in caplog.text
