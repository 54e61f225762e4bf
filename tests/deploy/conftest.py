"""One stack for all tests of containers: building and starting it takes minutes."""

import uuid
from collections.abc import Iterator

import pytest

from support.compose_stack import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    stack = Stack(f"splitlearn-test-{uuid.uuid4().hex[:8]}")
    try:
        stack.compose("build")
        stack.up()
        yield stack
    finally:
        try:
            print(stack.compose("logs", "--no-color", "--tail", "40"))
        finally:
            stack.compose("--profile", "*", "down", "--volumes", "--rmi", "local", "--remove-orphans")
