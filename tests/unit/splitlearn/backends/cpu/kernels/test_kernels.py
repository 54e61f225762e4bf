import os
import subprocess
import sys

import pytest

SAY = "from splitlearn.backends.cpu.kernels import kernels; print(kernels() is not None)"


def there_are(**environment: str) -> str:
    others = {name: value for name, value in os.environ.items() if name != "SPLITLEARN_KERNELS"}
    code = [sys.executable, "-c", SAY]
    return subprocess.run(code, env=others | environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("value", ["off", "OFF"])
def test_they_can_be_switched_off(value: str) -> None:
    assert there_are(SPLITLEARN_KERNELS=value) == "False"


def test_nothing_else_switches_them_off() -> None:
    assert there_are(SPLITLEARN_KERNELS="on") == there_are()
