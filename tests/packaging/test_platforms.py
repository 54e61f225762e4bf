"""Where the project can be installed from wheels alone. Asks the package index for metadata.

By uv: pip evaluates markers for the machine that it runs on, whatever `--platform` says.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "platform", ["x86_64-manylinux_2_31", "aarch64-manylinux_2_31", "aarch64-apple-darwin", "x86_64-apple-darwin"]
)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_everything_that_the_services_need_has_wheels(platform: str, python: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--extra", "client", "--extra", "train"]
    command += ["--python-platform", platform, "--python-version", python, "--only-binary", ":all:", "--system-certs"]

    # torch's wheels are for macOS 14 and later
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    if platform == "x86_64-apple-darwin":
        # torch has had no wheels for Intel Macs since 2.3
        assert found.returncode != 0
        assert "torch" in found.stderr
        return
    assert found.returncode == 0, found.stderr
    assert "uvloop==" in found.stdout
