"""Processes that do what scripts of the product do when they go wrong: who is to blame for their end."""

import sys
from pathlib import Path

import psutil
import pytest

import splitlearn_client
from splitlearn_client.confined_process import ConfinedProcess, LimitExceeded, ResultTooDeep
from splitlearn_client.errors import ProcessFailed

SCRIPT = """
import os, signal, sys
sys.path += sys.argv[1:]
from splitlearn_client.confined_worker import confine, serve

def answer_to(request):
    if "signal" in request:
        os.kill(os.getpid(), request["signal"])
    if "exit" in request:
        os._exit(request["exit"])
    while "forever" in request:
        pass
    if "bytes" in request:
        return {"text": str(len(bytearray(request["bytes"])))}
    if "depth" in request:
        value = []
        for _ in range(request["depth"]):
            value = [value]
        return {"value": value}
    if "raises" in request:
        raise RuntimeError(request["raises"])
    return {"text": request["text"]}

confine(1 << 28)
serve(answer_to, 0.3)
"""


@pytest.fixture
def process(tmp_path: Path) -> ConfinedProcess:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    return ConfinedProcess(script, [], (splitlearn_client,), cpu_seconds=0.3, wall_seconds=30)


def test_a_process_answers_one_request_after_the_other(process: ConfinedProcess) -> None:
    assert [process.ask({"text": text}, 100) for text in ("é", "b")] == [{"text": "é"}, {"text": "b"}]
    assert process.lives


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"forever": 1}, r"more than 0\.3 s"),
        ({"signal": 11}, r"too much memory or is nested too deeply \(SIGSEGV\)"),
        ({"signal": 6}, "SIGABRT"),
        ({"text": "x" * 200}, "its result has more than 100 bytes"),
    ],
    ids=["time", "stack", "memory", "length"],
)
def test_work_that_exceeds_a_limit_is_to_blame(
    process: ConfinedProcess, request_: dict[str, object], says: str
) -> None:
    with pytest.raises(LimitExceeded, match=says):
        process.ask(request_, 100)
    assert not process.lives


def test_work_that_needs_too_much_memory_is_told_so_and_the_process_goes_on(process: ConfinedProcess) -> None:
    assert process.ask({"bytes": 1 << 30}, 100) == {"error": "it needs too much memory"}
    assert process.ask({"text": "a"}, 100) == {"text": "a"}


def asked_deep_in_the_stack(process: ConfinedProcess, depth: int, n_frames: int) -> dict[str, object]:
    return asked_deep_in_the_stack(process, depth, n_frames - 1) if n_frames else process.ask({"depth": depth}, 10_000)


@pytest.mark.parametrize(("depth", "n_frames"), [(2000, 0), (500, 600)], ids=["the script", "the service"])
def test_a_result_that_is_too_deep_for_either_side_does_not_end_the_process(
    process: ConfinedProcess, depth: int, n_frames: int
) -> None:
    with pytest.raises(ResultTooDeep, match="its result is nested too deeply"):
        asked_deep_in_the_stack(process, depth, n_frames)
    assert process.ask({"text": "a"}, 100) == {"text": "a"}


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"signal": 9}, "SIGKILL"),
        ({"signal": 15}, "SIGTERM"),
        ({"exit": 3}, "exit code 3"),
        ({"raises": "x"}, r"exit code \d+"),
    ],
    ids=["killed", "ended", "exit", "error"],
)
def test_what_ends_otherwise_is_the_service_s_failure(
    process: ConfinedProcess, request_: dict[str, object], says: str
) -> None:
    with pytest.raises(ProcessFailed, match=rf"\({says}\); the request is not to blame") as failed:
        process.ask(request_, 100)
    assert (failed.value.status, failed.value.retry_after) == (503, 1.0)
    assert not process.lives


def test_a_process_that_is_not_scheduled_is_the_service_s_failure(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = ConfinedProcess(script, [], (splitlearn_client,), cpu_seconds=0.3, wall_seconds=0.5)
    psutil.Process(process.pid).suspend()
    with pytest.raises(ProcessFailed, match=r"did not answer within 0\.5 s, as the machine is too busy"):
        process.ask({"text": "a"}, 100)


def test_a_process_that_the_system_does_not_start_is_the_service_s_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(ProcessFailed, match=r"could not be started \(No such file or directory\); the request is not"):
        ConfinedProcess(tmp_path / "script.py", [], (), cpu_seconds=0.3, wall_seconds=30)
