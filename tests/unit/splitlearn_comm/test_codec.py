import ctypes

import pytest
import torch

from splitlearn_comm.core import DTYPES, EncodedTensor, TensorCodec
from splitlearn_comm.errors import InvalidTensor

CODEC = TensorCodec()


def bits(tensor: torch.Tensor) -> list[int]:
    """Compares NaN and float8 too, which torch.equal does not."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_back_to_the_bit(name: str) -> None:
    dtype = DTYPES[name]
    values = torch.tensor([[0, 1, 2], [3, -4, 100]], dtype=torch.float64)
    tensor = values.ne(0) if dtype is torch.bool else values.abs().to(dtype)

    encoded = CODEC.encode(tensor)
    decoded = CODEC.decode(encoded)

    assert encoded.dtype == name
    assert len(encoded.data) == 6 * dtype.itemsize
    assert decoded.dtype is dtype
    assert decoded.shape == (2, 3)
    assert bits(decoded) == bits(tensor)


def test_the_bytes_are_little_endian_and_row_major() -> None:
    encoded = CODEC.encode(torch.tensor([[1, 2], [256, -1]], dtype=torch.int16))

    assert encoded == EncodedTensor("INT16", (2, 2), bytes([1, 0, 2, 0, 0, 1, 255, 255]))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1, 1)])
def test_scalars_and_empty_tensors_keep_their_shape(shape: tuple[int, ...]) -> None:
    tensor = torch.full(shape, 7, dtype=torch.bfloat16)

    decoded = CODEC.decode(CODEC.encode(tensor))

    assert decoded.shape == tensor.shape
    assert torch.equal(decoded, tensor)


def test_values_are_encoded_as_seen_through_strides_views_and_gradients() -> None:
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    # One element, because a larger view of this kind is not contiguous, and is negated when it is made so.
    negated = torch.complex(base, base)[2:, 3:].conj().imag
    assert negated.is_neg()
    assert negated.is_contiguous()

    for tensor in (base.t(), base[:, 1::2], base.expand(2, 3, 4), base.clone().requires_grad_(), negated):
        assert torch.equal(CODEC.decode(CODEC.encode(tensor)), tensor)


def test_infinities_and_nan_are_carried() -> None:
    tensor = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0], dtype=torch.float16)

    assert bits(CODEC.decode(CODEC.encode(tensor))) == bits(tensor)


def test_a_decoded_tensor_is_writable_and_shares_memory_with_nothing() -> None:
    encoded = CODEC.encode(torch.zeros(4))
    first, second = CODEC.decode(encoded), CODEC.decode(encoded)

    first.add_(1)

    assert torch.equal(second, torch.zeros(4))
    assert encoded.data == bytes(16)
    assert first.data_ptr() != ctypes.cast(encoded.data, ctypes.c_void_p).value


def test_any_byte_but_zero_is_a_true_bool() -> None:
    decoded = CODEC.decode(EncodedTensor("BOOL", (3,), bytes([0, 1, 200])))

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
    ],
)
def test_bytes_that_are_no_such_tensor_are_refused(encoded: EncodedTensor, complaint: str) -> None:
    with pytest.raises(InvalidTensor, match=complaint):
        CODEC.decode(encoded)


@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [
        (torch.zeros(2, dtype=torch.complex64), "complex64 has no form on the wire"),
        (torch.eye(2).to_sparse(), "only dense tensors"),
    ],
)
def test_tensors_without_a_form_on_the_wire_are_refused(tensor: torch.Tensor, complaint: str) -> None:
    with pytest.raises(InvalidTensor, match=complaint):
        CODEC.encode(tensor)
