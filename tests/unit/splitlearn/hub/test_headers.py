import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from splitlearn.checkpoints.weight_files import DTYPES
from splitlearn.errors import BadCheckpoint
from splitlearn.hub.headers import BITS, header_bytes, tensors_in


def header_of(table: Any) -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text


def entry(start: int, end: int, shape: Any = None, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def test_a_file_of_the_library_is_read_as_it_reads_it() -> None:
    tensors = {"b": torch.ones(3, 2, dtype=torch.bfloat16), "a": torch.zeros(4), "none": torch.zeros(0, 7)}
    data = save(tensors, metadata={"format": "pt"})
    header = data[: header_bytes(data[:8], "f", len(data))]
    found = {each.key: each for each in tensors_in(header, "f", len(data))}
    assert found.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert found[key].shape == tuple(tensor.shape)
        assert DTYPES[found[key].dtype] is tensor.dtype
        assert data[found[key].start : found[key].end] == tensor.contiguous().view(torch.uint8).numpy().tobytes()


def test_every_dtype_that_is_read_from_disk_is_known_with_its_size() -> None:
    assert BITS.keys() == DTYPES.keys()
    assert all(bits == 8 * DTYPES[name].itemsize for name, bits in BITS.items() if name != "F4")


@pytest.mark.parametrize("first", [b"", b"1234567", (93).to_bytes(8, "little"), b"\xff" * 8])
def test_a_header_that_the_file_cannot_hold_is_refused(first: bytes) -> None:
    with pytest.raises(BadCheckpoint, match=r"f is no safetensors file: its header would be longer"):
        header_bytes(first, "f", 100)


@pytest.mark.parametrize(
    ("table", "size", "message"),
    [
        (b"{", 0, "f is no safetensors file"),
        (b"[]", 0, "its header is a list"),
        (b'{"a": 1, "a": 2}', 0, "a name twice"),
        (b"[" * 100_000, 0, "f is no safetensors file"),
        (b"\xff\xfe", 0, "f is no safetensors file"),
        ({"a": 7}, 0, "has no dtype, shape and offsets"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0]}}, 1, "has no dtype, shape and offsets"),
        ({"a": entry(0, 1, shape="1")}, 1, "no whole numbers"),
        ({"a": entry(0, 1, shape=[-1])}, 1, "no whole numbers"),
        ({"a": entry(0, 1, shape=[1.0])}, 1, "no whole numbers"),
        ({"a": entry(0, 1, shape=[True])}, 1, "no whole numbers"),
        ({"a": entry(0, 1, dtype="Q4")}, 1, "a dtype that torch does not have: 'Q4'"),
        ({"a": entry(0, 1, dtype=None)}, 1, "a dtype that torch does not have"),
        ({"a": entry(0, 3, shape=[1], dtype="F32")}, 3, "takes 3 bytes"),
        ({"a": entry(4, 0, shape=[1], dtype="F32")}, 0, "takes -4 bytes"),
        ({"a": entry(0, 2), "b": entry(1, 3)}, 3, "b begins at byte"),
        ({"a": entry(0, 2), "b": entry(3, 4)}, 4, "b begins at byte"),
        ({"a": entry(1, 2)}, 2, "a begins at byte"),
        ({"a": entry(0, 2)}, 3, "its tensors end at byte"),
        ({"a": entry(0, 2)}, 1, "its tensors end at byte"),
    ],
)
def test_a_header_that_contradicts_itself_or_the_file_is_refused(table: Any, size: int, message: str) -> None:
    header = header_of(table)
    with pytest.raises(BadCheckpoint, match=message):
        tensors_in(header, "f", len(header) + size)


@given(st.binary(max_size=200), st.integers(0, 300))
def test_whatever_comes_it_is_read_or_refused(text: bytes, size: int) -> None:
    header = header_of(text)
    with suppress(BadCheckpoint):
        assert all(each.end <= len(header) + size for each in tensors_in(header, "f", len(header) + size))


def test_numbers_of_four_bits_take_half_a_byte(tmp_path: Path) -> None:
    header = header_of({"a": entry(0, 3, shape=[2, 3], dtype="F4")})
    assert tensors_in(header, "f", len(header) + 3)[0].shape == (2, 3)
