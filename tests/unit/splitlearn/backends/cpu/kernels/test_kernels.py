import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from splitlearn.backends.cpu.kernels import (
    INSTRUCTION_SETS,
    SETS_BY_PROCESSOR,
    are_off,
    available_sets,
    kernels,
    why_no_kernels,
)
from splitlearn.errors import BadDevice

ROOT = Path(__file__).parents[6]
SAY = "from splitlearn.backends.cpu.kernels import kernels; print(getattr(kernels(), 'instruction_set', None))"


def used(**environment: str) -> str:
    """The instruction set of a new process."""
    others = {name: value for name, value in os.environ.items() if name != "SPLITLEARN_KERNELS"}
    code = [sys.executable, "-c", SAY]
    return subprocess.run(code, env=others | environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Environment variables are set on it, and asked anew."""
    monkeypatch.setattr("splitlearn.backends.cpu.kernels.kernels", kernels.__wrapped__)
    return monkeypatch


@pytest.mark.parametrize("value", ["off", "OFF"])
def test_they_can_be_switched_off(value: str) -> None:
    assert used(SPLITLEARN_KERNELS=value) == "None"


@pytest.mark.parametrize("value", ["on", ""])
def test_the_best_set_of_the_processor_is_used_where_none_is_asked_for(value: str) -> None:
    best = next(iter(available_sets()), None)
    assert used(SPLITLEARN_KERNELS=value) == used() == str(best)


def test_each_set_of_the_processor_can_be_asked_for() -> None:
    for name in available_sets():
        assert used(SPLITLEARN_KERNELS=name) == used(SPLITLEARN_KERNELS=name.upper()) == name


def test_another_word_is_an_error_that_names_what_can_be_asked_for(forced: pytest.MonkeyPatch) -> None:
    forced.setenv("SPLITLEARN_KERNELS", "avx")
    told = f"SPLITLEARN_KERNELS=avx: expected one of on, off, {', '.join(INSTRUCTION_SETS)}"
    for ask in (kernels.__wrapped__, are_off):
        with pytest.raises(BadDevice, match=told):
            ask()
    assert str(why_no_kernels()).startswith("SPLITLEARN_KERNELS=avx: expected one of on")


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_a_set_that_was_not_compiled_is_an_error_where_it_is_asked_for(
    forced: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    forced.setenv("SPLITLEARN_KERNELS_DIR", str(tmp_path))
    forced.setenv("SPLITLEARN_KERNELS", name)
    with pytest.raises(BadDevice, match=f"{name}: they were not compiled; .* here it can be off"):
        kernels.__wrapped__()
    forced.delenv("SPLITLEARN_KERNELS")
    assert kernels.__wrapped__() is None
    assert str(why_no_kernels()).startswith("they were not compiled; install a C compiler")


@pytest.mark.usefixtures("every_set")
def test_a_processor_without_the_instructions_takes_the_next_set_or_none(forced: pytest.MonkeyPatch) -> None:
    """The libraries themselves say what the processor has; here they are made to deny it."""
    name = os.environ["SPLITLEARN_KERNELS"]
    opened = {each: None if each == name else each for each in available_sets()}
    forced.setattr("splitlearn.backends.cpu.kernels._open", opened.get)
    with pytest.raises(BadDevice, match=f"{name}: the processor lacks its instructions; here it can be off"):
        kernels.__wrapped__()
    forced.delenv("SPLITLEARN_KERNELS")
    assert kernels.__wrapped__() == next((each for each in available_sets() if each != name), None)
    assert name not in available_sets()
    forced.setattr("splitlearn.backends.cpu.kernels._open", lambda _: None)
    assert why_no_kernels() == "the processor has no AVX2 with FMA; torch's own operations are used"


def test_each_set_of_every_processor_is_one_of_the_compiled_libraries() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    compiled = {each["name"]: each["define-macros"] for each in settings["ext-modules"]}
    sets = {name for names in SETS_BY_PROCESSOR.values() for name in names}
    assert compiled == {
        f"splitlearn.backends.cpu.kernels._kernels_{name}": [[f"SIMD_{name.upper()}", "1"]] for name in sets
    }


def test_a_kind_of_processor_without_kernels_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPLITLEARN_KERNELS", raising=False)
    monkeypatch.setattr("splitlearn.backends.cpu.kernels.INSTRUCTION_SETS", ())
    monkeypatch.setattr("splitlearn.backends.cpu.kernels.kernels", kernels.__wrapped__)
    assert str(why_no_kernels()).startswith("there are none for this processor")
