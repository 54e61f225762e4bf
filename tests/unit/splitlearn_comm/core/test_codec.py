"""What every codec keeps, the exact ones, and the documented two-argument form."""

import ctypes
import tracemalloc
import zlib

import pytest
import torch

from splitlearn_comm.core import CODECS, DTYPES, CompressedTensorCodec, EncodedTensor, TensorCodec, codec_named, unpack
from splitlearn_comm.errors import InvalidTensor, UnknownCodec
from splitlearn_comm.options import MAX_MESSAGE_BYTES

CODEC = TensorCodec()
ZLIB = CompressedTensorCodec(compression_level=6)
ALIKE = torch.full((4, 64), 1.5)


def bits(tensor: torch.Tensor) -> list[int]:
    """Compares NaN and float8 too, which torch.equal does not."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("codec", [CODEC, ZLIB], ids=["none", "zlib"])
@pytest.mark.parametrize("repeats", [1, 3000], ids=["copied", "as a view"])
def test_the_exact_codecs_keep_every_dtype_to_the_bit(codec: TensorCodec, name: str, repeats: int) -> None:
    dtype = DTYPES[name]
    values = torch.tensor([[0, 1, 2, 0, 0, 0, 0, 0], [3, -4, 100, 0, 0, 0, 0, 0]], dtype=torch.float64)
    tensor = (values.ne(0) if dtype is torch.bool else values.abs().to(dtype)).repeat(repeats, 1)

    encoded = codec.pack(tensor)
    decoded = unpack(encoded)

    assert encoded.dtype == name
    assert decoded.dtype is dtype
    assert decoded.shape == (2 * repeats, 8)
    assert bits(decoded) == bits(tensor)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("codec", CODECS.values(), ids=list(CODECS))
def test_every_codec_keeps_dtype_and_shape_of_whatever_it_is_given(codec: TensorCodec, name: str) -> None:
    for shape in [(), (0,), (3, 0, 2), (1, 1, 1), (2, 3, 65), (2, 128)]:
        tensor = torch.ones(shape).to(DTYPES[name])

        decoded = unpack(codec.pack(tensor))

        assert (decoded.dtype, decoded.shape) == (tensor.dtype, tensor.shape)
        assert bits(decoded) == bits(tensor)


def test_the_bytes_are_little_endian_and_row_major() -> None:
    encoded = CODEC.pack(torch.tensor([[1, 2], [256, -1]], dtype=torch.int16))

    assert encoded == EncodedTensor("INT16", (2, 2), bytes([1, 0, 2, 0, 0, 1, 255, 255]))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1, 1)])
def test_scalars_and_empty_tensors_keep_their_shape(shape: tuple[int, ...]) -> None:
    tensor = torch.full(shape, 7, dtype=torch.bfloat16)

    decoded = unpack(CODEC.pack(tensor))

    assert decoded.shape == tensor.shape
    assert torch.equal(decoded, tensor)


def test_values_are_encoded_as_seen_through_strides_views_and_gradients() -> None:
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    # One element, because a larger view of this kind is not contiguous, and is negated when it is made so.
    negated = torch.complex(base, base)[2:, 3:].conj().imag
    assert negated.is_neg()
    assert negated.is_contiguous()

    for tensor in (base.t(), base[:, 1::2], base.expand(2, 3, 4), base.clone().requires_grad_(), negated):
        assert torch.equal(unpack(CODEC.pack(tensor)), tensor)


@pytest.mark.parametrize("codec", CODECS.values(), ids=list(CODECS))
def test_infinities_and_nan_pass_through_every_codec(codec: TensorCodec) -> None:
    tensor = torch.ones(4, 64)
    tensor[0, 0], tensor[1, 1], tensor[2, 2] = float("nan"), float("inf"), -float("inf")

    assert bits(unpack(codec.pack(tensor))) == bits(tensor)


def test_infinities_and_nan_are_carried() -> None:
    tensor = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0], dtype=torch.float16)

    assert bits(unpack(CODEC.pack(tensor))) == bits(tensor)


def test_a_decoded_tensor_is_writable_and_shares_memory_with_nothing() -> None:
    encoded = CODEC.pack(torch.zeros(4))
    first, second = unpack(encoded), unpack(encoded)

    first.add_(1)

    assert torch.equal(second, torch.zeros(4))
    assert encoded.data == bytes(16)
    assert first.data_ptr() != ctypes.cast(encoded.data, ctypes.c_void_p).value


@pytest.mark.parametrize("codec", CODECS.values(), ids=list(CODECS))
def test_what_any_codec_unpacks_is_writable_and_the_callers_own(codec: TensorCodec) -> None:
    packed = codec.pack(ALIKE)
    first, second = unpack(packed), unpack(packed)

    first.add_(1)

    assert torch.equal(second, ALIKE)
    assert torch.equal(unpack(packed), ALIKE)


def test_any_byte_but_zero_is_a_true_bool() -> None:
    decoded = unpack(EncodedTensor("BOOL", (3,), bytes([0, 1, 200])))

    assert bits(decoded) == [0, 1, 1]


@pytest.mark.parametrize(
    ("encoded", "complaint"),
    [
        (EncodedTensor("FLOAT32", (2, 2), bytes(15)), r"shape \[2, 2\] takes 16 bytes, got 15"),
        (EncodedTensor("FLOAT32", (), b""), "takes 4 bytes, got 0"),
        (EncodedTensor("FLOAT32", (0,), bytes(4)), "takes 0 bytes, got 4"),
        (EncodedTensor("FLOAT32", (-2, -2), bytes(16)), r"never negative, got shape \[-2, -2\]"),
        (EncodedTensor("FLOAT12", (1,), bytes(4)), "unknown dtype 'FLOAT12'; expected one of FLOAT64"),
        (EncodedTensor("UINT8", (1,) * 17, bytes(1)), "at most 16 dimensions, got 17"),
        (EncodedTensor("UINT8", (0, 2**62, 2**62), b""), "more elements than can be counted"),
        (EncodedTensor("INT64", (2**62,), bytes(8)), "takes 36893488147419103232 bytes, got 8"),
        (EncodedTensor("FLOAT32", (2,), b"none of zlib's", "zlib"), "not zlib's"),
        (EncodedTensor("FLOAT32", (2,), zlib.compress(bytes(7)), "zlib"), "does not hold the 8 bytes"),
        (EncodedTensor("FLOAT32", (2,), zlib.compress(bytes(9)), "zlib"), "does not hold the 8 bytes"),
        (EncodedTensor("FLOAT32", (2,), zlib.compress(bytes(8))[:-1], "zlib"), "does not hold the 8 bytes"),
        (EncodedTensor("FLOAT32", (2,), zlib.compress(bytes(8)) + b"x", "zlib"), "does not hold the 8 bytes"),
        (EncodedTensor("UINT8", (MAX_MESSAGE_BYTES + 1,), b"", "zlib"), f"has at most {MAX_MESSAGE_BYTES} bytes"),
        (EncodedTensor("FLOAT32", (2,), bytes(3), "bf16"), "BFLOAT16 of shape \\[2\\] takes 4 bytes, got 3"),
        (EncodedTensor("FLOAT32", (2, 65), bytes(145), "int8"), "shape \\[2, 65\\] take 146 bytes, got 145"),
    ],
)
def test_bytes_that_are_no_such_tensor_are_refused(encoded: EncodedTensor, complaint: str) -> None:
    with pytest.raises(InvalidTensor, match=complaint):
        unpack(encoded)


@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [
        (torch.zeros(2, dtype=torch.complex64), "complex64 has no form on the wire"),
        (torch.eye(2).to_sparse(), "only dense tensors"),
    ],
)
def test_tensors_without_a_form_on_the_wire_are_refused(tensor: torch.Tensor, complaint: str) -> None:
    with pytest.raises(InvalidTensor, match=complaint):
        CODEC.pack(tensor)


def test_a_codec_that_this_end_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(UnknownCodec, match="unknown codec 'lz4'; expected one of none, zlib, bf16, fp16, int8"):
        unpack(EncodedTensor("FLOAT32", (), bytes(4), "lz4"))
    with pytest.raises(UnknownCodec, match="lz4"):
        codec_named("lz4")


def test_zlib_makes_less_of_neighbours_that_are_alike_and_leaves_noise_alone() -> None:
    noise = torch.randint(0, 256, (4096,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    hidden = torch.randn(256, 64, generator=torch.Generator().manual_seed(0)).bfloat16()

    assert ZLIB.pack(noise).codec == "none"
    packed = ZLIB.pack(hidden)
    assert packed.codec == "zlib"
    assert len(packed.data) < 0.75 * hidden.nbytes
    assert len(packed.data) < len(zlib.compress(bytes(CODEC.pack(hidden).data), 9))


@pytest.mark.parametrize(("n_bytes", "words"), [(2**24, "cannot hold the 16"), (2**15, "does not hold the 16 bytes")])
def test_a_bomb_is_not_inflated_beyond_what_it_announced(n_bytes: int, words: str) -> None:
    bomb = zlib.compress(bytes(n_bytes), 9)

    tracemalloc.start()
    try:
        with pytest.raises(InvalidTensor, match=words):
            unpack(EncodedTensor("FLOAT32", (4,), bomb, "zlib"))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("level", [-1, 10])
def test_a_compression_level_that_zlib_does_not_have_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match=f"compression_level is 0 to 9, got {level}"):
        CompressedTensorCodec(level)


@pytest.mark.parametrize("codec", CODECS.values(), ids=list(CODECS))
def test_the_two_argument_form_gives_bytes_and_a_shape_tuple_and_takes_them_back_as_float32(
    codec: TensorCodec,
) -> None:
    for tensor in (ALIKE, ALIKE.bfloat16(), ALIKE.to(torch.int64), torch.ones(()), torch.empty(0, 3), ALIKE.t()):
        data, shape = codec.encode(tensor)
        decoded = codec.decode(data, shape)

        assert (type(data), type(shape), shape) == (bytes, tuple, tuple(tensor.shape))
        assert decoded.dtype is torch.float32
        assert torch.equal(decoded, tensor.float().trunc() if tensor.dtype is torch.int64 else tensor.float())
        decoded.add_(1)


def test_the_plain_two_argument_form_is_little_endian_float32() -> None:
    assert CODEC.encode(torch.tensor([[1.0], [-2.0]])) == (bytes([0, 0, 128, 63, 0, 0, 0, 192]), (2, 1))
    assert torch.equal(CODEC.decode(bytes([0, 0, 128, 63]), (1,)), torch.ones(1))


def test_the_two_argument_form_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(InvalidTensor, match="complex64 has no form"):
        CODEC.encode(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(InvalidTensor, match="takes 16 bytes, got 15"):
        CODEC.decode(bytes(15), (2, 2))
    for name in ("bf16", "fp16", "int8"):
        with pytest.raises(InvalidTensor, match=f"codec '{name}' holds finite values in its range only"):
            CODECS[name].encode(torch.tensor([1.0, float("nan")]))


def test_only_much_work_of_a_slow_codec_takes_long() -> None:
    assert ZLIB.is_expensive(torch.empty(2**20, dtype=torch.uint8))
    assert not ZLIB.is_expensive(torch.empty(2**10, dtype=torch.uint8))
    assert not ZLIB.is_expensive(None)
    assert not CODEC.is_expensive(torch.empty(2**20, dtype=torch.uint8))
