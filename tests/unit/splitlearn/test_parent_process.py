import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked, and only Linux's does it")

_CHILD = (
    "import os, signal, sys; from splitlearn.parent_process import end_with_parent;"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "end_with_parent(int(sys.argv[1]), signal.SIGKILL); print('ready', flush=True);"
    "os.kill(os.getpid(), signal.SIGSTOP)"
)
_PARENT = "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid())])"


def test_a_child_that_looks_for_nothing_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT, _CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        # the child has the other end of the pipe too: it ends when both have ended
        assert parent.stdout.read() == ""


def test_a_child_whose_parent_has_ended_already_ends_too() -> None:
    done = subprocess.run([sys.executable, "-c", _CHILD, "1"], stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-9, "")
