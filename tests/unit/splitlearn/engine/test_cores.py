import os
import subprocess
import sys

from splitlearn.engine import cores
from splitlearn.engine.cores import cores_name

# without the package around it, whose import takes seconds
SAY = f"import runpy; print(runpy.run_path({cores.__file__!r})['cores_name']())"


def told(*allowed: int) -> str:
    """What a process says that may use these cores."""
    code = f"import os; os.sched_setaffinity(0, {set(allowed)}); {SAY}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_processes_on_the_same_cores_agree_and_on_others_do_not() -> None:
    mine = sorted(os.sched_getaffinity(0))
    assert told(*mine) == cores_name()
    if len(mine) > 1:
        assert told(mine[0]) != cores_name()
        assert told(mine[0]) != told(mine[1])
