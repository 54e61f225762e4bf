"""The instruction sets of our kernels in turns."""

from collections.abc import Iterator

import pytest

from splitlearn.backends.cpu.kernels import are_off, available_sets, kernels

NONE = pytest.param(None, marks=pytest.mark.skip(reason="no C compiler at installation, or no AVX2 with FMA"))


@pytest.fixture(params=(NONE,) if are_off() else available_sets() or (NONE,))
def every_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that uses this runs once with each of them that this machine can have."""
    monkeypatch.setenv("SPLITLEARN_KERNELS", request.param)
    kernels.cache_clear()
    yield
    kernels.cache_clear()
