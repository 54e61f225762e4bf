"""Memory that kernels need for one call is kept for the next one."""

import resource
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from splitlearn.backends.cpu.kernels import kernels
from splitlearn.backends.cpu.kernels.structs import LinearCall
from splitlearn.backends.cpu.linear.native import NativeInt8Linear

pytestmark = pytest.mark.usefixtures("every_set")

N_ROWS, N_INPUTS, N_OUTPUTS = 512, 4096, 16
# of the rows' 16-bit levels
PAGES = N_ROWS * N_INPUTS * 2 // resource.getpagesize()


def call(linear: NativeInt8Linear, rows_TK: torch.Tensor, outputs_TN: torch.Tensor) -> Any:
    n_rows, n_inputs = rows_TK.shape
    addresses = rows_TK.data_ptr(), outputs_TN.data_ptr()
    return LinearCall(*addresses, n_rows, n_inputs, linear.descriptor.structure, 1)


def test_later_calls_take_no_fresh_pages_on_whatever_thread() -> None:
    linear = NativeInt8Linear(torch.randn(N_OUTPUTS, N_INPUTS).bfloat16())
    rows_TK, outputs_TN = torch.randn(N_ROWS, N_INPUTS).bfloat16(), torch.zeros(N_ROWS, N_OUTPUTS).bfloat16()
    asked, run = call(linear, rows_TK, outputs_TN), kernels().linear  # type: ignore[union-attr]
    run(asked)
    expected = outputs_TN.clone()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with ThreadPoolExecutor(1) as thread:
        for _ in range(8):
            thread.submit(run, asked).result()
    # a thread of its own takes some for its stack
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < PAGES
    assert torch.equal(outputs_TN, expected)


def test_calls_at_the_same_time_have_memory_of_their_own() -> None:
    linear = NativeInt8Linear(torch.randn(N_OUTPUTS, N_INPUTS).bfloat16())
    rows = torch.randn(8, 64, N_INPUTS).bfloat16()
    expected, outputs = [linear(each) for each in rows], torch.zeros(8, 64, N_OUTPUTS).bfloat16()
    asked = [call(linear, each, output) for each, output in zip(rows, outputs, strict=True)]
    run = kernels().linear  # type: ignore[union-attr]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            list(threads.map(run, asked))
    assert torch.equal(outputs, torch.stack(expected))
