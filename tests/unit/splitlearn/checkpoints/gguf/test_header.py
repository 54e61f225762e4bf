"""A header that is truncated, or claims what is not there, is refused at once, with the file's name."""

import struct
import tracemalloc
from pathlib import Path

import pytest

from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.gguf.header import read_header
from splitlearn.errors import BadCheckpoint, UnsupportedModel
from support.gguf_files import write_gguf

HUGE = 2**62


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def header(tensors: int = 0, values: int = 0, body: bytes = b"", version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, values) + body


def outline(name: str, sizes: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


ARRAY = struct.pack("<IQ", 8, HUGE)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "is empty"),
        (b"GG", "ends inside its header"),
        (header(magic=b"GGML"), "is not a GGUF file"),
        (header(version=1), "version 1"),
        (header(version=3 << 24), "version 50331648; 2 and 3, little-endian"),
        (header(tensors=HUGE), f"claims {HUGE} tensors, more than it has room for"),
        (header(values=HUGE), f"claims {HUGE} metadata, more than it has room for"),
        (header(values=1, body=struct.pack("<Q", HUGE) + bytes(64)), f"has a text of {HUGE} bytes"),
        (header(values=1, body=struct.pack("<Q", 900) + bytes(64)), "ends inside its header"),
        (header(values=1, body=text("\xff") + bytes(64)).replace("\xff".encode(), b"\xff\xfe"), "not UTF-8"),
        (header(values=1, body=entry("a", 99, bytes(64))), "unknown type 99 for a"),
        (header(values=1, body=entry("a", 9, ARRAY + bytes(64))), f"claims {HUGE} texts of a"),
        (header(values=1, body=entry("a", 9, struct.pack("<IQ", 4, HUGE) + bytes(64))), f"claims {HUGE} values of a"),
        (header(values=1, body=entry("a", 9, struct.pack("<IQ", 9, 1) + bytes(64))), "array of the unknown type 9"),
        (
            header(values=1, body=entry("a", 9, struct.pack("<IQ", 8, 2) + struct.pack("<Q", HUGE) + bytes(64))),
            "ends inside its header",
        ),
        (header(values=2, body=entry("a", 4, bytes(4)) * 2 + bytes(64)), "has a twice"),
        (header(values=1, body=entry("general.alignment", 4, bytes(4)) + bytes(64)), "for general.alignment"),
        (header(tensors=1, body=outline("w", ()) + bytes(64)), "has 0 axes for the tensor w"),
        (header(tensors=1, body=outline("w", (1,) * 5) + bytes(64)), "has 5 axes for the tensor w"),
        (header(tensors=1, body=text("w") + struct.pack("<I", 2**31) + bytes(64)), f"has {2**31} axes"),
        (header(tensors=1, body=outline("w", (4, 0)) + bytes(64)), r"has the shape \[0, 4\] for w"),
        (header(tensors=1, body=outline("w", (33,), kind=8) + bytes(64)), "which blocks of 32 do not divide"),
        (header(tensors=1, body=outline("w", (HUGE, HUGE)) + bytes(64)), "is truncated: w would end at byte"),
        (header(tensors=1, body=outline("w", (4,), offset=HUGE) + bytes(64)), "is truncated: w would end at byte"),
        (header(tensors=2, body=outline("w", (1,)) * 2 + bytes(64)), "has the tensor w twice"),
    ],
)
def test_what_a_header_claims_is_compared_with_what_is_there(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(BadCheckpoint, match=named) as refusal:
        prepare(str(path))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(("kind", "name"), [(10, "Q2_K"), (20, "IQ4_NL"), (16, "IQ2_XXS"), (39, "MXFP4"), (999, "999")])
def test_types_that_are_not_covered_are_refused_by_name(tmp_path: Path, kind: int, name: str) -> None:
    (tmp_path / "x.gguf").write_bytes(header(tensors=1, body=outline("blk.0.w", (256,), kind=kind) + bytes(512)))
    with pytest.raises(UnsupportedModel, match=f"quantised weights .*blk.0.w is of the type {name}"):
        prepare(str(tmp_path / "x.gguf"))


def test_a_file_that_ends_anywhere_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    whole = path.read_bytes()
    begin = min(tensor.offset for tensor in read_header(path).tensors.values())
    for end in [*range(0, begin, 997), begin, len(whole) // 2, len(whole) - 33]:
        path.write_bytes(whole[:end])
        with pytest.raises(BadCheckpoint):
            read_header(path)
