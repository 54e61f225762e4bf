"""Completion as a shell asks for it: the function that each command prints, in a real bash."""

import subprocess
import sys
from pathlib import Path

import pytest

# what bash does at the tab key: words and the place of the one to complete, and then the function
PRESS_TAB = """
press_tab() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    "_$1_completion" "$1"
    echo "${COMPREPLY[*]}"
}
"""


def bash(script: str) -> list[str]:
    # typer looks for a shell among the parents of the process, and then takes no name of one; here all are asked for
    found = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    command = ["bash", "--noprofile", "--norc", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=found, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_bash_completes_verbs_flags_and_values_of_both_commands() -> None:
    asked = {
        "splitlearn tr": "trunk",
        "splitlearn trunk --metrics-p": "--metrics-port",
        "splitlearn --log-format c": "console",
        "cleangpt t": "train tokens",
    }
    lines = [f'eval "$({name} --show-completion bash)"' for name in ("splitlearn", "cleangpt")]
    answers = bash("\n".join([*lines, PRESS_TAB, *(f"press_tab {words}" for words in asked)]))

    assert dict(zip(asked, answers, strict=True)) == asked


@pytest.mark.parametrize(
    ("shell", "first"), [("zsh", "#compdef splitlearn"), ("fish", "complete --command splitlearn --no-files")]
)
def test_other_shells_have_their_scripts(shell: str, first: str) -> None:
    lines = bash(f"splitlearn --show-completion {shell}")
    assert lines[0].startswith(first)
    assert any(f"_SPLITLEARN_COMPLETE=complete_{shell}" in line for line in lines)
