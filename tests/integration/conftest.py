"""Fixtures of the integration tests: both services, real and connected."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from splitlearn_client.speculation.draft_length import DraftLength
from splitlearn_comm.loop_thread import loop_thread
from support.chat_scene import Scene, scene
from support.chromium import CHROMIUM, Chromium
from support.every_guess import takes
from support.running_split import RunningTrunk, Split, running_split, running_trunk


@pytest.fixture
async def split(tiny_weights: Path) -> AsyncIterator[Split]:
    """A trunk and a client service of the tiny llama."""
    async with running_split(tiny_weights) as running:
        yield running


@pytest.fixture
def thread_trunk(tiny_weights: Path) -> Iterator[RunningTrunk]:
    """A trunk of the tiny llama on the loop of the blocking classes: one loop serves both ends."""
    stack = AsyncExitStack()
    yield loop_thread().run(stack.enter_async_context(running_trunk(tiny_weights)))
    loop_thread().run(stack.aclose())


@pytest.fixture
def client_weights(tiny_weights: Path, tmp_path: Path) -> Path:
    """What a client has: everything but the trunk's layers."""
    folder = tmp_path / "client"
    shutil.copytree(tiny_weights, folder)
    for layer in (1, 2, 3):
        (folder / f"mid.{layer:05d}.safetensors").unlink()
    return folder


@pytest.fixture
def all_guesses_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the drafter makes, whether they pay or not."""
    monkeypatch.setattr(DraftLength, "takes", takes)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with closing(Chromium(str(CHROMIUM), tmp_path_factory.mktemp("profile"))) as browser:
        yield browser


@pytest.fixture
async def open_page(chromium: Chromium, tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(chromium, tmp_path) as opened:
        yield opened
