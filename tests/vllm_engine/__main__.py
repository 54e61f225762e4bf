"""Makes the environment with vLLM if it is not there, and runs the tests in this folder in it: make test-vllm."""

import os
import subprocess
import sys

from tests.vllm_engine.environment import ROOT, VLLM


def main() -> int:
    """The exit status of pytest."""
    VLLM.make()
    folders = [str(ROOT / name) for name in ("shared", "services", "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [VLLM.python, "-m", "pytest", "-m", "slow", "tests/vllm_engine", "--timeout", "280", *sys.argv[1:]]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
