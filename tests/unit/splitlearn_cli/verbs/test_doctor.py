"""What the command says of this machine, and of a directory."""

import re
from pathlib import Path

import pytest
import torch

from splitlearn.backends.cpu.kernels import kernels
from splitlearn.backends.vllm import installation
from splitlearn.backends.vllm.installation import VERSION
from splitlearn_cli import diagnosis
from splitlearn_cli.verbs.doctor import Settings, run
from support.tiny_models import random_model, save_sepweight, tiny_config


def said(text: str) -> dict[str, str]:
    """The lines by their first words, with the advice below them."""
    lines: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition("  ")
        if line.startswith("  -> "):
            lines[list(lines)[-1]] += f" {line.strip()}"
        else:
            lines[name] = value.strip()
    return lines


def test_versions_and_the_kernels_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    run(Settings())
    lines = said(capsys.readouterr().out)
    assert lines["torch"] == torch.__version__
    assert {"splitlearn", "python", "transformers", "grpcio", "instruction sets", "CUDA"} <= lines.keys()
    library = kernels()
    assert lines["own kernels"].startswith("no -> " if library is None else f"yes, {library.instruction_set}")


@pytest.mark.skipif(kernels() is None, reason="no C compiler at installation, or no AVX2 with FMA")
def test_a_directory_whose_layers_are_fused_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = random_model(tiny_config("llama")).bfloat16()
    weights = save_sepweight(tmp_path, model, chat=False, dtype="bfloat16")
    run(Settings(weights=weights))
    lines = said(capsys.readouterr().out)
    assert lines["fused layers"] == "3/3"
    assert lines["fused attention"] == "3/3"
    assert lines["fused decoder"] == "yes"
    assert "fused experts" not in lines
    assert lines["dtype"] == "bfloat16"


@pytest.mark.skipif(kernels() is None, reason="no C compiler at installation, or no AVX2 with FMA")
def test_experts_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = random_model(tiny_config("mixtral")).bfloat16()
    run(Settings(weights=save_sepweight(tmp_path, model, chat=False, dtype="bfloat16")))
    assert said(capsys.readouterr().out)["fused experts"] == "3/3"


def test_each_no_comes_with_what_to_do(tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(Settings(weights=tiny_weights))
    lines = said(capsys.readouterr().out)
    assert lines["dtype"] == "float32 -> our kernels take bfloat16 alone: --dtype bfloat16"
    assert lines["fused layers"] == "0/3"


def test_kernels_that_are_switched_off_are_told_with_the_switch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPLITLEARN_KERNELS", "off")
    run(Settings())
    assert "SPLITLEARN_KERNELS=off" in said(capsys.readouterr().out)["own kernels"]


def test_an_instruction_set_that_there_is_not_is_told_with_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPLITLEARN_KERNELS", "sse")
    kernels.cache_clear()
    run(Settings())
    assert "SPLITLEARN_KERNELS=sse: expected one of on, off" in said(capsys.readouterr().out)["own kernels"]


def test_a_version_outside_of_the_tested_window_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "version", lambda name: "1.0" if name == "torch" else "99.0")
    advice = {each.name: each.advice for each in diagnosis.findings_of_installation()}
    assert str(advice["torch"]).startswith("tested with torch")
    assert str(advice["transformers"]).startswith("tested with transformers")
    assert advice["splitlearn"] is None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, "not installed$"),
        (VERSION, f"{VERSION}$"),
        ("0.1.0", rf"0\.1\.0 -> vLLM 0\.1\.0 is installed, and only {VERSION} is known to work"),
    ],
)
def test_the_version_of_vllm_is_told_and_whether_it_is_the_known_one(
    found: str | None, expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "installed_version", lambda: found)
    run(Settings())
    assert re.match(expected, said(capsys.readouterr().out)["vLLM"])


def test_whether_vllm_may_serve_the_layers_is_told(tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(Settings(weights=tiny_weights))
    assert said(capsys.readouterr().out)["--engine vllm"] == "may fit"
