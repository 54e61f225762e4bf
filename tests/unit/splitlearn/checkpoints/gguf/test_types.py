"""Blocks of each type become what llama.cpp's own package makes of them."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from splitlearn.checkpoints.gguf.types import TYPE_NAMES, tensor_type
from support.gguf_files import random_blocks

CODES = [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]


@pytest.mark.parametrize("kind", CODES)
def test_numbers_are_those_of_the_package(kind: Kind) -> None:
    blocks = random_blocks(kind, 64, 512)
    found = tensor_type(kind)
    assert found is not None
    assert found.dequantize is not None
    assert (found.name, (found.values, found.size)) == (kind.name, gguf.GGML_QUANT_SIZES[kind])
    numbers = found.dequantize(torch.from_numpy(blocks).reshape(-1, found.size))
    assert torch.equal(numbers.reshape(64, 512), torch.from_numpy(gguf.quants.dequantize(blocks, kind)))


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16])
def test_plain_numbers_have_a_dtype(kind: Kind) -> None:
    found = tensor_type(kind)
    assert found is not None
    numbers = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    stored = np.ascontiguousarray(gguf.quants.quantize(numbers, kind)).view(np.uint8)
    expected = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(numbers, kind), kind))
    assert torch.equal(torch.from_numpy(stored).view(found.dtype).float().reshape(4, 32), expected)


def test_all_other_types_have_a_name_for_errors() -> None:
    for kind in Kind:
        assert tensor_type(kind) is not None or TYPE_NAMES.get(kind, "") == kind.name or kind.name == "Q1_0"
