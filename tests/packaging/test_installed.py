"""What `pip install splitlearn` gives: an environment with what the wheel requires, and nothing else."""

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from support.distributions import Built, Installation
from support.tiny_models import save_checkpoint

pytestmark = pytest.mark.slow

VERBS = [
    "convert",
    "quantize",
    "inspect",
    "trunk",
    "client",
    "up",
    "demo",
    "generate",
    "chat",
    "models",
    "cache",
    "info",
    "bench",
    "certs",
    "plan",
    "privacy-report",
]


@pytest.fixture(scope="module")
def plain(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("plain"), built.wheel)


@pytest.mark.parametrize("words", [[], *([verb] for verb in VERBS)])
def test_help_needs_no_extra(plain: Installation, words: list[str]) -> None:
    shown = plain.run("-m", "splitlearn_cli", *words, "-h")

    assert shown.returncode == 0, shown.stderr


def test_a_model_is_converted_and_inspected(plain: Installation, tiny_llama: PreTrainedModel, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "tiny", tiny_llama)

    converted = plain.run("-m", "splitlearn_cli", "convert", checkpoint, "-o", tmp_path / "weights")
    assert converted.returncode == 0, converted.stderr
    inspected = plain.run("-m", "splitlearn_cli", "inspect", tmp_path / "weights", "--verify")
    assert inspected.returncode == 0, inspected.stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["trunk", "W"], "trunk"),
        (["info", "127.0.0.1:1"], "trunk"),
        (["client", "W", "--trunk", "127.0.0.1:1"], "client"),
        (["up", "W", "--port", "0"], "client"),
        (["demo", "--port", "0"], "demo"),
    ],
)
def test_a_verb_whose_extra_is_missing_says_in_one_line_what_installs_it(
    plain: Installation, tiny_weights: Path, words: list[str], extra: str
) -> None:
    ran = plain.run("-m", "splitlearn_cli", *[str(tiny_weights) if word == "W" else word for word in words])

    assert ran.returncode == 1
    assert f'pip install "splitlearn[{extra}]"' in ran.stderr.splitlines()[-1]
    assert "Traceback" not in ran.stderr


def test_the_kernels_of_the_wheel_are_opened(plain: Installation) -> None:
    program = (
        "from pathlib import Path; import torch; from splitlearn.backends.cpu import kernels;"
        "libraries = list(Path(kernels.__file__).parent.glob('*.so'));"
        "has_avx2 = torch.backends.cpu.get_cpu_capability() in ('AVX2', 'AVX512');"
        "assert not (libraries and has_avx2) or kernels.kernels() is not None"
    )
    ran = plain.run("-c", program)
    assert ran.returncode == 0, ran.stderr


def test_with_the_extra_client_a_trunk_and_a_client_serve(built: Built, tiny_weights: Path, tmp_path: Path) -> None:
    installation = Installation(tmp_path / "client", built.wheel, "client")

    ran = installation.run("-m", "splitlearn_cli", "up", tiny_weights, "--port", "0", "--prompt", "the quick brown")

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
