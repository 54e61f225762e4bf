"""Writing one safetensors file: read back by the reference library, and bounded in memory."""

import hashlib
import json
import weakref

import pytest
import torch
from safetensors.torch import load_file

from llm_sepweight import BadTensorError, TensorSource
from llm_sepweight.tensor_file import SLICE_BYTES, write_tensor_file

DTYPES = [
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def random_bits(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Any bit pattern, NaNs and all; bools only 0 and 1."""
    high = 2 if dtype == torch.bool else 256
    generator = torch.Generator().manual_seed(3)
    raw = torch.randint(high, (*shape[:-1], shape[-1] * dtype.itemsize), dtype=torch.uint8, generator=generator)
    return raw.view(dtype)


def header_of(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return length, json.loads(raw[8 : 8 + length])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_round_trips_bit_for_bit(tmp_path, dtype):
    tensor = random_bits(dtype, 3, 5)
    write_tensor_file(tmp_path / "x", [TensorSource.of("a.b", tensor)])
    loaded = load_file(tmp_path / "x")["a.b"]
    assert loaded.dtype == dtype
    assert loaded.shape == (3, 5)
    assert torch.equal(bits(loaded), bits(tensor))


def test_all_dtypes_share_a_file_in_which_every_tensor_is_aligned(tmp_path):
    tensors = {str(dtype): random_bits(dtype, 1, 3) for dtype in DTYPES}
    write_tensor_file(tmp_path / "x", [TensorSource.of(name, tensor) for name, tensor in tensors.items()])
    loaded = load_file(tmp_path / "x")
    assert all(torch.equal(bits(loaded[name]), bits(tensor)) for name, tensor in tensors.items())
    length, header = header_of(tmp_path / "x")
    assert (8 + length) % 64 == 0
    for name, tensor in tensors.items():
        assert header[name]["data_offsets"][0] % tensor.dtype.itemsize == 0


@pytest.mark.parametrize("shape", [(), (0, 4), (1,), (2, 3, 4, 5)])
def test_every_shape_round_trips(tmp_path, shape):
    tensor = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    write_tensor_file(tmp_path / "x", [TensorSource.of("a", tensor)])
    loaded = load_file(tmp_path / "x")["a"]
    assert loaded.shape == shape
    assert torch.equal(loaded, tensor)


def test_a_section_may_be_empty(tmp_path):
    write_tensor_file(tmp_path / "x", [])
    assert load_file(tmp_path / "x") == {}


def test_size_digest_and_progress_agree_with_the_file(tmp_path):
    pieces: list[int] = []
    size, digest = write_tensor_file(
        tmp_path / "x",
        [TensorSource.of("a", torch.ones(5)), TensorSource.of("b", torch.ones(7))],
        pieces.append,
    )
    raw = (tmp_path / "x").read_bytes()
    assert size == len(raw) == sum(pieces)
    assert digest == hashlib.sha256(raw).hexdigest()
    assert pieces[1:] == [20, 28]


def test_the_bytes_do_not_depend_on_the_order_of_the_tensors(tmp_path):
    sources = [TensorSource.of(name, torch.full((2,), value)) for name, value in [("a", 1.0), ("b", 2.0)]]
    assert write_tensor_file(tmp_path / "x", sources) == write_tensor_file(tmp_path / "y", sources[::-1])


def test_views_are_written_row_by_row(tmp_path):
    grid = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    views = {"transposed": grid.t(), "strided": grid[:, ::2], "expanded": grid[:1].expand(3, 4)}
    write_tensor_file(tmp_path / "x", [TensorSource.of(name, view) for name, view in views.items()])
    loaded = load_file(tmp_path / "x")
    for name, view in views.items():
        assert torch.equal(loaded[name], view)


def test_a_tensor_is_cast_to_the_announced_dtype(tmp_path):
    values = torch.tensor([1.0, 1.00390625, -3.14159])
    write_tensor_file(tmp_path / "x", [TensorSource("a", torch.bfloat16, (3,), lambda: values)])
    assert torch.equal(load_file(tmp_path / "x")["a"], values.to(torch.bfloat16))


def test_a_tensor_longer_than_a_slice_goes_out_in_slices(tmp_path):
    tensor = torch.arange(SLICE_BYTES // 4 + 3, dtype=torch.int32)
    pieces: list[int] = []
    write_tensor_file(
        tmp_path / "x", [TensorSource("a", torch.int16, tuple(tensor.shape), lambda: tensor)], pieces.append
    )
    assert pieces[1:] == [SLICE_BYTES // 2, 6]
    assert torch.equal(load_file(tmp_path / "x")["a"], tensor.to(torch.int16))


def test_a_tensor_is_released_before_the_next_one_is_read(tmp_path):
    read: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def source(name: str) -> TensorSource:
        def read_it() -> torch.Tensor:
            alive.append(sum(ref() is not None for ref in read))
            tensor = torch.ones(8, 8)
            # the storage is what costs memory, and what a slice of the tensor would keep
            read.append(weakref.ref(tensor.untyped_storage()))
            return tensor

        return TensorSource(name, torch.float32, (8, 8), read_it)

    write_tensor_file(tmp_path / "x", [source(f"t{index}") for index in range(4)])
    assert alive == [0, 0, 0, 0]


def test_memory_is_bounded_by_the_largest_tensor(tmp_path, anonymous_memory):
    numbers, count = 2 * 2**20, 16

    def source(index: int) -> TensorSource:
        return TensorSource(f"t{index}", torch.float32, (numbers,), lambda: torch.full((numbers,), float(index)))

    before, peak = anonymous_memory(), 0

    def watch(_: int) -> None:
        nonlocal peak
        peak = max(peak, anonymous_memory())

    size, _ = write_tensor_file(tmp_path / "x", [source(index) for index in range(count)], watch)
    assert size > count * numbers * 4
    # two tensors, and what else this process did meanwhile
    assert peak - before < 4 * numbers * 4


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([TensorSource.of("a", torch.ones(1)), TensorSource.of("a", torch.ones(2))], "'a' is given twice"),
        ([TensorSource.of("__metadata__", torch.ones(1))], "cannot be called '__metadata__'"),
        ([TensorSource.of("", torch.ones(1))], "cannot be called ''"),
        ([TensorSource.of("a", torch.ones(1, dtype=torch.complex64))], "torch.complex64, which the format"),
        (
            [TensorSource("a", torch.float32, (3,), lambda: torch.ones(2))],
            r"announced as \(3,\), but read as \(2,\)",
        ),
        ([TensorSource.of("a", torch.eye(2).to_sparse())], "sparse or has no data"),
        ([TensorSource.of("a", torch.ones(2, device="meta"))], "sparse or has no data"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path, sources, message):
    with pytest.raises(BadTensorError, match=message):
        write_tensor_file(tmp_path / "x", sources)
    assert not list(tmp_path.iterdir())
