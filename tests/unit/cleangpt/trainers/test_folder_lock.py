import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from cleangpt.errors import FolderInUseError
from cleangpt.trainers import Checkpoints, Training, TrainingSettings, train
from cleangpt.trainers.folder_lock import locked

_HOLDS = """
import sys
from pathlib import Path
from cleangpt.trainers.folder_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds tmp_path."""
    command = [sys.executable, "-c", _HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_is_held_by_one_process_until_it_ends_however_it_does(
    holder: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    with (
        pytest.raises(FolderInUseError, match=r"another training writes to .*; wait for its end, or name another"),
        locked(tmp_path),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        pass


def test_a_folder_that_was_left_can_be_held_again(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "made"):
            assert (tmp_path / "made").is_dir()


def test_two_trainings_do_not_share_a_folder_of_checkpoints(
    holder: "subprocess.Popen[str]", tmp_path: Path, counter: Callable[..., PreTrainedModel], numbers: Any
) -> None:
    training = Training(counter(), numbers(), TrainingSettings(max_steps=1), checkpoints=Checkpoints(tmp_path))
    with pytest.raises(FolderInUseError):
        train(training)
    holder.kill()
    holder.wait()
    assert train(training).step == 1
