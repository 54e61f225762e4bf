import subprocess
import sys
from typing import get_args

from splitlearn.backends.cpu.packing import QUANTIZATIONS
from splitlearn.choices import Quantization


def test_the_quantizations_to_choose_from_are_those_that_pack_knows() -> None:
    assert get_args(Quantization) == QUANTIZATIONS


def test_the_settings_of_every_service_are_read_without_torch() -> None:
    modules = "splitlearn_client.settings, splitlearn_trunk.settings, splitlearn_cli.verbs.up"
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
