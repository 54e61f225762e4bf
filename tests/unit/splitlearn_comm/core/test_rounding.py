"""The rounding codecs keep what they promise, and do not touch what they cannot keep."""

import pytest
import torch

from splitlearn_comm.core import CODECS, BFloat16Codec, Float16Codec, Int8Codec, TensorCodec, unpack


def values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Normal, with one outlier in a hundred, as hidden states have them."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    return torch.where(torch.rand(shape, generator=generator) < 0.01, normal * 300, normal).to(dtype)


@pytest.mark.parametrize(
    ("codec", "relative", "absolute"), [(BFloat16Codec(), 2**-8, 0.0), (Float16Codec(), 2**-11, 2**-25)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_codecs_stay_within_their_error_and_halve_the_bytes(
    codec: TensorCodec, relative: float, absolute: float, dtype: torch.dtype
) -> None:
    x = values(17, 100, dtype=dtype) * 1e-3

    packed = codec.pack(x)
    error = (unpack(packed) - x).abs()

    assert packed.codec == codec.name
    assert len(packed.data) == x.numel() * 2
    assert bool((error <= torch.maximum(relative * x.abs(), torch.tensor(absolute))).all())
    assert error.max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [1, 63, 64, 65, 200])
def test_int8_stays_within_a_254th_of_the_largest_value_of_each_block(dtype: torch.dtype, width: int) -> None:
    x = values(9, width, dtype=dtype)

    back = Int8Codec().decompress(Int8Codec().compress(x) or b"", dtype, (9, width))

    unit = torch.finfo(dtype).eps
    for start in range(0, width, 64):
        block, found = x[:, start : start + 64].double(), back[:, start : start + 64].double()
        largest = block.abs().amax(dim=1, keepdim=True)
        assert bool(((found - block).abs() <= largest * (1 / 254 + 1e-6 + unit)).all())


def test_int8_takes_one_byte_per_value_and_four_per_block() -> None:
    x = values(3, 200, dtype=torch.bfloat16)

    packed = Int8Codec().pack(x)

    assert (packed.codec, len(packed.data)) == ("int8", 3 * (200 + 4 * 4))


def test_an_outlier_spoils_its_own_block_only() -> None:
    x = values(1, 128).clamp(-1, 1)
    x[0, 70] = 1e6

    error = (unpack(Int8Codec().pack(x)) - x).abs()

    assert error[0, :64].max() <= 1 / 254 + 1e-6
    assert error[0, 64:].max() > 0.5


def test_zeros_stay_zero_and_signs_are_symmetric() -> None:
    x = torch.cat((torch.zeros(1, 64), torch.full((1, 64), -3.0), torch.full((1, 64), 3.0)))

    assert torch.equal(unpack(Int8Codec().pack(x)), x)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("bf16", values(4, 4, dtype=torch.bfloat16)),
        ("bf16", torch.full((4, 4), 1e300, dtype=torch.float64)),
        ("fp16", values(4, 4, dtype=torch.bfloat16)),
        ("fp16", torch.full((4, 4), 70000.0)),
        ("int8", torch.arange(256).reshape(4, 64)),
        ("int8", values(4, 64).to(torch.float8_e4m3fn)),
        ("int8", values(64, 1, dtype=torch.bfloat16)),
        ("int8", torch.full((4, 64), 1e300, dtype=torch.float64)),
    ],
)
def test_what_would_not_shrink_or_could_not_be_kept_goes_as_it_is(name: str, tensor: torch.Tensor) -> None:
    packed = CODECS[name].pack(tensor)

    assert packed.codec == "none"
    assert torch.equal(unpack(packed).double(), tensor.double())
