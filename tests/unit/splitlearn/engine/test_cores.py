import os
import subprocess
import sys

from splitlearn.engine import cores_name

SAY = "from splitlearn.engine.cores import cores_name; print(cores_name())"


def told(*cores: int) -> str:
    """What a process says that may use these cores."""
    code = f"import os; os.sched_setaffinity(0, {set(cores)}); {SAY}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_processes_on_the_same_cores_agree_and_on_others_do_not() -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert told(*cores) == cores_name()
    if len(cores) > 1:
        assert told(cores[0]) != cores_name()
        assert told(cores[0]) != told(cores[1])
