"""The processes of an engine, watched; here they are any processes."""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from splitlearn.backends.vllm.worker_watch import WorkerWatch
from splitlearn.errors import EngineFailed

PATIENCE = 60.0
Start = Callable[..., BaseProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process, by default one that stays until a signal."""
    made: list[BaseProcess] = []
    context = multiprocessing.get_context("spawn")

    def start(target: Callable[..., Any] = signal.pause, *args: Any) -> BaseProcess:
        process = context.Process(target=target, args=args, daemon=True)
        process.start()
        made.append(process)
        return process

    yield start
    for process in made:
        process.kill()
        process.join(PATIENCE)


@pytest.fixture
def told() -> "queue.Queue[EngineFailed]":
    return queue.Queue()


def test_the_death_of_one_process_is_told_and_ends_the_others(start: Start, told: "queue.Queue[EngineFailed]") -> None:
    first, second = start(), start()
    watch = WorkerWatch([first, second])
    watch.on_failure(told.put)

    second.kill()

    assert "a process of the engine was killed by SIGKILL" in str(told.get(timeout=PATIENCE))
    first.join(PATIENCE)
    assert first.exitcode == -signal.SIGKILL
    watch.close()


def test_a_process_that_ends_by_itself_is_told_with_its_exit_code(
    start: Start, told: "queue.Queue[EngineFailed]"
) -> None:
    watch = WorkerWatch([start(os._exit, 3)])
    watch.on_failure(told.put)
    assert "ended with exit code 3" in str(told.get(timeout=PATIENCE))
    watch.close()


def test_who_asks_late_is_told_at_once(start: Start, told: "queue.Queue[EngineFailed]") -> None:
    watch = WorkerWatch([start()])
    failure = watch.fail("it raised")
    watch.on_failure(told.put)
    assert told.get_nowait() is failure
    watch.close()


def test_an_error_of_one_process_ends_all_and_the_first_reason_is_everybodys(
    start: Start, told: "queue.Queue[EngineFailed]"
) -> None:
    worker = start()
    watch = WorkerWatch([worker])
    watch.on_failure(told.put)

    failure = watch.fail("it raised")
    worker.join(PATIENCE)

    assert worker.exitcode == -signal.SIGKILL
    assert watch.fail("it is gone") is failure
    assert "it raised" in str(failure)
    watch.close()
    assert told.get_nowait() is failure
    assert told.empty()


def test_processes_that_are_ended_on_purpose_are_no_failure(start: Start, told: "queue.Queue[EngineFailed]") -> None:
    worker, before = start(), threading.active_count()
    watch = WorkerWatch([worker])
    watch.on_failure(told.put)

    watch.close()
    watch.close()
    worker.kill()
    worker.join(PATIENCE)

    assert told.empty()
    assert threading.active_count() == before


def test_an_engine_in_this_process_has_none_to_lose(told: "queue.Queue[EngineFailed]") -> None:
    watch = WorkerWatch([])
    watch.on_failure(told.put)
    watch.close()
    assert told.empty()
