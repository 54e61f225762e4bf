"""What a stranger may claim of a tensor: refused from its sizes, before anything is allocated or decoded."""

import math
import re
import tracemalloc
import zlib
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitlearn_comm.core import CODECS, DTYPES, EncodedTensor, Int8Codec, unpack
from splitlearn_comm.core.registry import check
from splitlearn_comm.errors import CommError, InvalidTensor

SIZES = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63), 13_000_000]),
)
CLAIMS = st.builds(
    EncodedTensor,
    st.sampled_from([*DTYPES, "number 99"]),
    st.lists(SIZES, max_size=20).map(tuple),
    st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(zlib.compress)),
    st.sampled_from([*CODECS, "lz4"]),
)


@settings(max_examples=300, deadline=None)
@given(CLAIMS)
def test_any_claim_is_decoded_to_what_it_says_or_refused_in_kind(claim: EncodedTensor) -> None:
    try:
        tensor = unpack(claim)
    except CommError:
        return
    assert tuple(tensor.shape) == claim.shape
    assert tensor.dtype is DTYPES[claim.dtype]
    # every codec's bytes hold a bounded number of elements
    assert tensor.nbytes <= 8 * 1032 * (len(claim.data) + 1)


@settings(max_examples=200, deadline=None)
@given(CLAIMS)
def test_what_the_check_refuses_decoding_would_refuse_too_and_by_the_same_words(claim: EncodedTensor) -> None:
    try:
        check(claim)
    except CommError as refusal:
        with pytest.raises(type(refusal), match=f"^{re.escape(str(refusal))}$"):
            unpack(claim)


@pytest.mark.parametrize(
    ("codec", "dtype", "shape", "size"),
    [
        ("none", "FLOAT32", (2**40, 2**40), 64),
        ("none", "FLOAT32", (-1, -4), 16),
        ("none", "FLOAT32", (0, 2**62, 8), 0),
        ("bf16", "FLOAT64", (2**62, 2), 64),
        ("bf16", "INT64", (4,), 8),
        ("fp16", "BFLOAT16", (4,), 8),
        ("fp16", "FLOAT32", (1,) * 17, 2),
        ("int8", "FLOAT32", (13_000_000, 1), 13_000_000),
        ("int8", "FLOAT32", (1, 13_000_000), 62 * 2**20),
        ("int8", "INT8", (4,), 8),
        ("int8", "FLOAT8_E5M2", (4,), 8),
        ("int8", "FLOAT64", (2**62, 64), 64),
        ("zlib", "UINT8", (64 * 2**20,), 1024),
        ("zlib", "FLOAT64", (2**62,), 64),
    ],
)
def test_a_claim_that_cannot_be_true_is_refused_by_its_sizes(
    codec: str, dtype: str, shape: tuple[int, ...], size: int
) -> None:
    claim = EncodedTensor(dtype, shape, bytes(size), codec)

    with (
        patch("torch.empty", side_effect=AssertionError("memory was allocated")),
        pytest.raises(InvalidTensor),
    ):
        unpack(claim)


@pytest.mark.parametrize("width", [1, 2, 63])
def test_int8_rows_shorter_than_a_block_take_no_more_memory_than_their_values(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 1 byte a value and 4 a row become 4 bytes a value; a block of 64 for every row would be 64 times that
    largest = 0
    original = torch.Tensor.to

    def watched(tensor: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        nonlocal largest
        made = original(tensor, *args, **options)  # type: ignore[call-overload]
        largest = max(largest, made.nbytes)
        return made  # type: ignore[no-any-return]

    monkeypatch.setattr(torch.Tensor, "to", watched)
    monkeypatch.setattr(torch.nn.functional, "pad", None)
    rows_RD = torch.randn(10_000, width)

    back_RD = unpack(Int8Codec().pack(rows_RD)) if width > 1 else Int8Codec().decode(*Int8Codec().encode(rows_RD))

    assert largest <= 4 * math.prod(rows_RD.shape)
    assert (back_RD - rows_RD).abs().max() < 0.05


def test_a_refusal_of_many_dimensions_is_short_and_cheap() -> None:
    claim = EncodedTensor("FLOAT32", (1,) * 200_000, b"", "none")

    tracemalloc.start()
    try:
        with pytest.raises(InvalidTensor, match="at most 16 dimensions, got 200000") as refused:
            check(claim)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert len(str(refused.value)) < 200
