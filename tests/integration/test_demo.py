"""`splitlearn demo` as a user has it: the model comes out of the wheel that is built of deploy/demo_model."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    # setuptools builds in the folder itself
    sources = tmp_path_factory.mktemp("demo") / "demo_model"
    left_out = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "deploy" / "demo_model", sources, ignore=left_out)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, str(sources.parent)], cwd=sources, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return ZipFile(next(sources.parent.glob("*.whl")))


def test_the_model_is_in_a_wheel_for_every_platform(wheel: ZipFile) -> None:
    assert str(wheel.filename).endswith("-py3-none-any.whl")
    files = {path.name for path in (ROOT / "deploy" / "demo_model").glob("*.safetensors")}
    files |= {"manifest.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert {f"splitlearn_demo_model/{name}" for name in files} <= set(wheel.namelist())


def test_it_answers_without_a_network_or_uvloop(wheel: ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    # found before the one that is installed
    (tmp_path / "uvloop.py").write_text("raise ModuleNotFoundError(name='uvloop')")
    found = {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    logs = tmp_path / "logs"
    words = ["demo", "--port", "0", "--prompt", "What does shutil.copyfile do?", "--log-dir", str(logs)]

    done = subprocess.run(
        [sys.executable, "-m", "splitlearn_cli", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **found},
        timeout=110,
    )

    assert done.returncode == 0, done.stderr
    assert "copy" in done.stdout.lower()
    for name in ("trunk", "client"):
        assert "asyncio's own event loop runs" in (logs / f"{name}.log").read_text()
