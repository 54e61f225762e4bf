"""Digests compared on a thread of its own, and what damage anywhere in a directory leads to."""

import os
import shutil
import threading
from concurrent.futures import CancelledError
from random import Random

import pytest

from llm_sepweight import (
    FileError,
    ManifestError,
    MissingFileError,
    Verification,
    WrongDigestError,
    WrongSizeError,
    load,
)
from llm_sepweight.verification import KnownDigests

PATIENCE = 60.0


def compared(path, *parts: str, known: KnownDigests | None = None) -> Verification:
    check = Verification(path, parts, known)
    check.start()
    assert check.wait()
    return check


def endless(path, gibibytes: int):
    """Makes layer 0 a file that takes long to read: of holes, so that no disk has to hold it."""
    with path.joinpath("mid.00000.safetensors").open("r+b") as file:
        file.truncate(gibibytes * 2**30)
    manifest = (path / "manifest.json").read_text().splitlines()
    at = next(number for number, line in enumerate(manifest) if '"mid.00000.safetensors"' in line)
    manifest[at + 1] = f'"size": {gibibytes * 2**30},'
    lines = [line for line in manifest if not line.startswith('  "sha256"')]
    lines[-2] = lines[-2].rstrip(",")
    (path / "manifest.json").write_text("\n".join(lines))


def test_all_files_of_the_parts_are_compared_once_with_those_that_ties_lead_to(model):
    check = compared(model.path, "0-2", "1-3 e")
    sections = ("begin", "mid.00000", "mid.00001", "mid.00002", "end")
    assert (check.n_files, check.n_bytes) == (5, sum(model.manifest.files[section].size for section in sections))
    found = check.result.result()
    assert (found.files, found.bytes) == (check.n_files, check.n_bytes)
    assert found.seconds > 0


def test_two_files_that_changed_places_are_found_although_their_sizes_are_right(model):
    first, second = (model.path / f"mid.0000{layer}.safetensors" for layer in (0, 1))
    first.rename(model.path / "third")
    second.rename(first)
    (model.path / "third").rename(second)
    load(model.path, "f")
    with pytest.raises(WrongDigestError, match=r"mid\.00000\.safetensors"):
        compared(model.path, "f")


def test_sizes_are_compared_before_anything_is_read(model):
    (model.path / "end.safetensors").write_bytes(b"")
    with pytest.raises(WrongSizeError, match=r"end\.safetensors"):
        Verification(model.path, ["f"])
    (model.path / "mid.00001.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"mid\.00001"):
        Verification(model.path, ["0-2"])


def test_a_check_that_takes_long_is_not_waited_for_and_can_be_stopped(model):
    endless(model.path, 4096)
    check = Verification(model.path, ["0-1"])
    check.start()
    assert not check.wait(5.0)
    assert not check.wait(0.01)
    check.stop()
    with pytest.raises(CancelledError):
        check.wait(PATIENCE)


@pytest.mark.skipif(not hasattr(os, "setpriority"), reason="priorities of threads are Linux's")
def test_in_the_background_it_takes_what_nobody_else_wants_and_the_rest_of_the_process_keeps_its_place(model):
    endless(model.path, 4096)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    check = Verification(model.path, ["0-1"])
    check.start()
    (thread,) = [each for each in threading.enumerate() if each.name == "verification"]
    check.give_way()
    while os.getpriority(os.PRIO_PROCESS, thread.native_id) != 19:
        assert not check.result.done()
    check.stop()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_a_file_that_was_read_before_is_read_again_only_when_it_has_changed(model, monkeypatch):
    known: KnownDigests = {}
    compared(model.path, "b 0-2", known=known)
    read = []
    monkeypatch.setattr(
        "llm_sepweight.verification.checked_chunks", lambda _, entry: (read.append(entry.file), iter(()))[1]
    )
    compared(model.path, "b 0-3", known=known)
    assert read == ["mid.00002.safetensors"]
    monkeypatch.undo()
    file = model.path / "mid.00001.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    os.utime(file, ns=(1, 1))
    for _ in range(2):
        with pytest.raises(WrongDigestError, match=r"mid\.00001\.safetensors"):
            compared(model.path, "1-2", known=known)
    file.write_bytes(raw)
    compared(model.path, "1-2", known=known)


def test_any_flipped_bit_and_any_lost_byte_is_found_and_the_file_named(model, tmp_path):
    seed = Random().randrange(10**6)
    print(f"seed {seed}")
    random = Random(seed)
    files = sorted(file.name for file in model.path.iterdir())
    assert "manifest.json" in files
    for round_ in range(400):
        damaged = tmp_path / str(round_)
        shutil.copytree(model.path, damaged)
        name = files[round_ % len(files)]
        raw = bytearray((damaged / name).read_bytes())
        if random.random() < 0.5:
            del raw[random.randrange(len(raw)) :]
        else:
            raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
        (damaged / name).write_bytes(raw)
        complaint = complaint_about(damaged)
        if complaint is not None:
            assert name in complaint
            assert "\n" not in complaint
        else:
            # whitespace between fields may be any, and a digest under another name is none
            assert name == "manifest.json"
            assert load(damaged, "f").to_dict().keys() == load(model.path, "f").to_dict().keys()
        shutil.rmtree(damaged)


def complaint_about(path) -> str | None:
    try:
        compared(path, "f")
    except (FileError, ManifestError) as error:
        return str(error)
    return None
