"""The NEON kernels beside those for AVX2, whose results are computed here.

Shapes: R rows, K inputs, N outputs, H heads, d head size.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from splitlearn.backends.cpu.kernels import Kernels, kernels
from splitlearn.backends.cpu.linear import NativeInt8Linear, NativeLinear
from tests.neon import calls
from tests.neon.conftest import Run
from tests.neon.memory_image import Call, read, write

pytestmark = pytest.mark.slow
NOT_SUPPORTED = 2
# the instruction sets, each on the processors that have it: max has all that QEMU knows
PAIRS = [("neon", "cortex-a72"), ("neon", "max"), ("neon_bf16", "max")]
Ask = Callable[[str, str, Sequence[Call]], list[list[torch.Tensor]]]


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    monkeypatch.setenv("SPLITLEARN_KERNELS", "avx2")
    kernels.cache_clear()
    library = kernels()
    assert library is not None
    yield library
    kernels.cache_clear()


@pytest.fixture
def ask(run: Run, tmp_path: Path) -> Ask:
    """The tensors of each call after an instruction set on a processor has made it."""

    def ask(instruction_set: str, processor: str, some: Sequence[Call]) -> list[list[torch.Tensor]]:
        (tmp_path / "calls").write_bytes(write(some))
        done = run(instruction_set, processor, tmp_path / "calls", tmp_path / "results")
        assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
        return read((tmp_path / "results").read_bytes(), some)

    return ask


def same_bits(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Which NaN a number is differs between processors."""
    both = found.view(torch.uint8), expected.view(torch.uint8)
    if not expected.is_floating_point():
        return torch.equal(*both)
    broken = found.isnan() & expected.isnan()
    return torch.equal(*(each.masked_fill(broken, 0).view(torch.uint8) for each in (found, expected)))


@pytest.mark.parametrize("kernel", calls.KERNELS)
@pytest.mark.parametrize(("instruction_set", "processor"), PAIRS)
def test_results_are_those_of_avx2(ask: Ask, avx2: Kernels, instruction_set: str, processor: str, kernel: str) -> None:
    """To the bit, but for sums of products of bf16 numbers where the processor has arithmetic for them."""
    some = list(calls.KERNELS[kernel]())
    found = ask(instruction_set, processor, some)
    for call, after in zip(some, found, strict=True):
        getattr(avx2, call.kernel)(call.structure)
        for ours, expected in zip(after, call.tensors, strict=True):
            if call.unlike is None or instruction_set == "neon" or not expected.is_floating_point():
                assert same_bits(ours, expected)
                continue
            (relative, share), greatest = call.unlike, expected.abs().max().item()
            torch.testing.assert_close(ours, expected, rtol=relative, atol=share * greatest)


def rounded_to_odd(numbers: torch.Tensor) -> torch.Tensor:
    """fp64 as fp32: towards zero, and the last bit of what is not exact is one."""
    nearest = numbers.float()
    inner = torch.nextafter(nearest, torch.zeros_like(nearest))
    cut = torch.where(nearest.double().abs() > numbers.abs(), inner, nearest)
    bits = cut.view(torch.int32)
    return torch.where(cut.double() == numbers, bits, bits | 1).view(torch.float32)


def summed(instruction_set: str, row_K: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
    """As Arm documents BFDOT; without it, one product after the other in fp32, in which products are exact."""
    products_NK, sums_N = row_K.double() * weight_NK.double(), torch.zeros(weight_NK.shape[0])
    for k in range(0, row_K.shape[0], 2):
        if instruction_set == "neon_bf16":
            sums_N = rounded_to_odd(sums_N.double() + rounded_to_odd(products_NK[:, k : k + 2].sum(1)).double())
        else:
            sums_N = sums_N + products_NK[:, k].float() + products_NK[:, k + 1].float()
    return sums_N


@pytest.mark.parametrize(("instruction_set", "processor"), PAIRS)
@pytest.mark.parametrize("n_inputs", [32, 96, 320])
def test_bf16_is_summed_in_the_order_of_an_emulation(
    ask: Ask, avx2: Kernels, instruction_set: str, processor: str, n_inputs: int
) -> None:
    """In blocks of every height. What is nearly the sum is subtracted: its last bits are then those of the result."""
    some, expected = [], []
    for seed in range(5):
        row_K, weight_NK = (
            calls.random(*shape, seed=seed) * torch.exp(2 * calls.random(*shape, seed=9 + seed))
            for shape in ((n_inputs,), (40, n_inputs))
        )
        sums_N = summed(instruction_set, row_K, weight_NK)
        module = NativeLinear(weight_NK, -sums_N.bfloat16())
        for n_rows in (1, 2, 3, 4, 5, 6, 13):
            some.append(calls.multiplied(module, row_K.repeat(n_rows, 1)))
            expected.append((sums_N - sums_N.bfloat16().float()).bfloat16())
    for found, expected_N in zip(ask(instruction_set, processor, some), expected, strict=True):
        assert torch.equal(found[1], expected_N.expand_as(found[1]))


@pytest.mark.parametrize("kind", [NativeLinear, NativeInt8Linear])
@pytest.mark.parametrize(("instruction_set", "processor"), PAIRS)
def test_a_row_is_the_same_to_the_bit_whatever_rows_come_with_it(
    ask: Ask, avx2: Kernels, instruction_set: str, processor: str, kind: calls.Kind
) -> None:
    rows_RK = calls.random(13, 600)
    parts = [rows_RK, *(rows_RK[row : row + 1] for row in range(13)), rows_RK[:5], rows_RK[5:12]]
    all_RN, *others = [
        each[1] for each in ask(instruction_set, processor, [calls.linear(kind, part, 40) for part in parts])
    ]
    for row in range(13):
        assert torch.equal(others[row][0], all_RN[row])
    assert torch.equal(others[13], all_RN[:5])
    assert torch.equal(others[14], all_RN[5:12])


@pytest.mark.parametrize(("instruction_set", "processor"), PAIRS)
def test_attention_is_the_same_to_the_bit_however_a_prompt_was_cut(
    ask: Ask, avx2: Kernels, instruction_set: str, processor: str
) -> None:
    """One row of many, packed keys and others, in the second tile of keys too."""
    # so many results that another order of sums would show in some of them
    held, new, heads, width = 500, 30, (14, 2), 128
    queries_RHd = calls.random(new, heads[0], width, seed=5, scale=4)
    whole = calls.attend([(held, new)], heads, width, queries=queries_RHd)
    cuts = [(row, row + 1) for row in range(new)] + [(0, 7), (7, 30)]
    parts = [
        calls.attend([(held + begin, end - begin)], heads, width, queries=queries_RHd[begin:end]) for begin, end in cuts
    ]
    for (_, end), part in zip(cuts, parts, strict=True):
        part.tensors[0].copy_(whole.tensors[0][:, :, : held + end])
    expected_RHd, *found = [each[2] for each in ask(instruction_set, processor, [whole, *parts])]
    for (begin, end), some_RHd in zip(cuts, found, strict=True):
        assert torch.equal(some_RHd, expected_RHd[begin:end])


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("instruction_set", "processor"), PAIRS)
def test_a_row_that_is_broken_comes_out_broken_and_the_others_whole(
    ask: Ask, avx2: Kernels, instruction_set: str, processor: str, broken: float
) -> None:
    """Which number that is not finite comes out differs between instruction sets."""
    rows_RK = calls.random(3, 32, seed=1)
    broken_RK = rows_RK.clone()
    broken_RK[1, 5] = broken
    some = [calls.linear(NativeInt8Linear, each, 16) for each in (rows_RK, broken_RK)]
    whole_RN, found_RN = (each[1] for each in ask(instruction_set, processor, some))
    assert not torch.isfinite(found_RN[1]).any()
    assert torch.equal(found_RN[[0, 2]], whole_RN[[0, 2]])


def test_a_processor_without_bf16_is_told_apart(run: Run, tmp_path: Path) -> None:
    (tmp_path / "calls").write_bytes(write([]))
    found = {
        processor: run("neon_bf16", processor, tmp_path / "calls", tmp_path / "results").returncode
        for processor in ("cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1", "max")
    }
    assert found == dict.fromkeys(found, NOT_SUPPORTED) | {"max": 0}


def test_its_instructions_end_a_program_on_such_a_processor(run: Run, avx2: Kernels, tmp_path: Path) -> None:
    (tmp_path / "calls").write_bytes(write([calls.linear(NativeLinear, calls.random(1, 32), 16)]))
    done = run("neon_bf16", "cortex-a72", "--anyway", tmp_path / "calls", tmp_path / "results")
    assert done.returncode == -signal.SIGILL
