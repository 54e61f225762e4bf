import asyncio
from pathlib import Path

import pytest
from huggingface_hub import constants

from llm_sepweight import Manifest, PartSpec
from splitlearn.errors import FetchStopped, NotCached
from splitlearn.hub.model import Bar, no_bar
from splitlearn.hub.stopping import Stop
from splitlearn.hub.weights import LocalWeights, fetched, open_weights, opened
from support.loopback_hub import LoopbackHub


def test_of_a_directory_nothing_is_fetched_whatever_is_in_it(tmp_path: Path) -> None:
    weights = open_weights(tmp_path / "nothing")
    weights.fetch([PartSpec.parse("f")])
    assert weights == LocalWeights(tmp_path / "nothing")
    assert weights.missing([PartSpec.parse("f")]) == []


async def test_a_name_is_opened_and_fetched_beside_the_event_loop(
    served: LoopbackHub, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.add("org/tiny", checkpoint)
    ask_at(monkeypatch, served.url)
    weights = await opened(Path("org/tiny"), tmp_path, tokenizer=True)
    await fetched(weights, [PartSpec.parse("1-2")])
    assert list(Manifest.read(weights.directory).files) == ["mid.00001"]
    assert (weights.directory / "tokenizer.json").is_file()
    assert weights.directory.is_relative_to(tmp_path)


async def test_a_fetch_that_is_cancelled_ends_its_thread() -> None:
    class Slow(LocalWeights):
        def fetch(self, parts: object, bar: Bar = no_bar, stop: Stop | None = None) -> None:
            assert stop is not None
            loop.call_soon_threadsafe(began.set)
            stop.wait()
            ended.append(stop)
            raise FetchStopped("stopped")

    loop, began, ended = asyncio.get_running_loop(), asyncio.Event(), list[Stop]()
    fetching = asyncio.create_task(fetched(Slow(Path()), []))
    await began.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await loop.shutdown_default_executor()
    assert len(ended) == 1


def test_offline_a_name_is_looked_for_in_the_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotCached):
        open_weights(Path("org/tiny"), tmp_path)


def ask_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What HF_ENDPOINT does, which is read when `huggingface_hub` is imported."""
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", url)
