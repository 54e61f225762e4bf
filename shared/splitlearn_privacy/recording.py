"""What is seen of answers on the way to a worker: a real client and a real worker on this machine write them.

Both run as they are served, in the dtype of the files and over loopback, and answers come one after the other.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import splitlearn_client.app
import splitlearn_trunk.app
from llm_sepweight import Manifest
from splitlearn_client.api.service import Service
from splitlearn_client.generation import GenerationRequest
from splitlearn_client.report import Report
from splitlearn_client.sampling import SamplingSettings
from splitlearn_client.settings import ClientSettings
from splitlearn_privacy.texts import Document, prompts_alike
from splitlearn_privacy.traffic import Frames
from splitlearn_trunk.metrics import TrunkMetrics
from splitlearn_trunk.settings import TrunkSettings

_PATIENCE: Final = 300.0
"""Seconds in which bottom and top have to be loaded."""
_NO_VARIABLES: Final = "SPLITLEARN_PRIVACY_REPORT_SERVICE_"
"""Both services have their defaults: the variables of the user's own are for others."""
_FEWEST: Final = 2


@dataclass(frozen=True)
class Setup:
    """How the client sends for tokens; `interval` is its `--frame-interval`."""

    frames: Frames
    interval: float = 0.0

    def __str__(self) -> str:
        return f"{self.frames}, every {1000 * self.interval:g} ms" if self.interval else self.frames


@dataclass(frozen=True)
class Recorded:
    """The messages that a worker got for one answer, the prompt's included: bytes, and seconds on one clock."""

    sizes: tuple[int, ...]
    times: tuple[float, ...]


@dataclass(frozen=True)
class Writing:
    """What is written.

    Attributes:
        n_texts: answers, at most.
        n_tokens: of each answer, that are waited for.
        most_guesses: in a frame.
        seed: of the order the second time.
    """

    n_texts: int
    n_tokens: int
    most_guesses: int
    seed: int = 0

    @property
    def max_tokens(self) -> int:
        """Of each answer: so many that no frame is shorter because the answer ends."""
        return self.n_tokens + self.most_guesses + 1


class _Noting(TrunkMetrics):
    """Notes when messages came, and how long they were."""

    def __init__(self, model_name: str) -> None:
        super().__init__(model_name)
        self.messages: list[tuple[int, float]] = []

    def bytes_in(self, count: int, codec: str) -> None:
        self.messages.append((count, time.perf_counter()))
        super().bytes_in(count, codec)


async def record(
    folder: Path,
    layers: str,
    found: Sequence[Document],
    writing: Writing,
    setups: Sequence[Setup],
    step: Callable[[str], None],
) -> dict[Setup, tuple[list[Recorded], list[Recorded]]]:
    """Lets the first answers of conversations be written twice in each setup, the second time in another order.

    Args:
        folder: a sepweight directory with all layers.
        layers: the worker's.
        step: called with a line before each setup.

    Returns:
        By setup the recordings of both times, in the same order; nothing where there are no two conversations.

    Raises:
        SepweightError, SplitError, CommError, RequestError: one of the two cannot start, or fails.
    """
    recorded = dict[Setup, tuple[list[Recorded], list[Recorded]]]()
    async with AsyncExitStack() as worker_stack:
        noting = _Noting(Manifest.read(folder).model_name)
        worker = await splitlearn_trunk.app.build(_worker_settings(folder, layers), worker_stack, noting)
        context = worker.engine.part.context_length
        longest = None if context is None else context - writing.max_tokens
        prompts = prompts_alike(found, writing.n_texts, longest, writing.n_tokens)
        if len(prompts) < _FEWEST:
            return {}
        await worker.start()
        worker_stack.push_async_callback(worker.server.stop)
        first = range(len(prompts))
        second = random.Random(writing.seed).sample(first, len(first))
        for setup in setups:
            step(f"layers {layers}: times of frames, {setup}")
            async with AsyncExitStack() as stack:
                settings = _client_settings(folder, worker.server.port, setup, writing.most_guesses)
                service = await splitlearn_client.app.build(settings, stack)
                await _ready(service)
                writer = _Writer(service, prompts, writing, noting)
                # whatever is slow the first time, and what guesses cost, is known then
                await writer.written(0)
                recorded[setup] = await writer.all_written(first), await writer.all_written(second)
    return recorded


@dataclass(frozen=True)
class _Writer:
    service: Service
    prompts: Sequence[tuple[int, ...]]
    writing: Writing
    noting: _Noting

    async def all_written(self, order: Sequence[int]) -> list[Recorded]:
        """Of all prompts in their own order, whichever they are written in."""
        found = {number: await self.written(number) for number in order}
        return [found[number] for number in range(len(self.prompts))]

    async def written(self, number: int) -> Recorded:
        """The beginning of one answer, as it is written next."""
        greedy = SamplingSettings(temperature=0.0)
        request = GenerationRequest(self.prompts[number], self.writing.max_tokens, greedy)
        self.noting.messages.clear()
        n_tokens = 0
        async with aclosing(self.service.generator.generate(request, Report())) as deltas:
            async for delta in deltas:
                n_tokens += delta.n_tokens
                if n_tokens >= self.writing.n_tokens:
                    break
        sizes, times = zip(*self.noting.messages, strict=True)
        return Recorded(sizes, times)


def _worker_settings(folder: Path, layers: str) -> TrunkSettings:
    own: dict[str, Any] = {"weights": folder, "layers": layers, "port": 0, "verify": "never"}
    return TrunkSettings(_env_prefix=_NO_VARIABLES, **own)


def _client_settings(folder: Path, port: int, setup: Setup, most_guesses: int) -> ClientSettings:
    own: dict[str, Any] = {
        "weights": folder,
        "trunk": f"127.0.0.1:{port}",
        "verify": "never",
        "speculative_method": "none" if setup.frames is Frames.PLAIN else "ngram",
        "speculative_rounding": True,
        "num_speculative_tokens": most_guesses,
        "pad_frames": setup.frames is Frames.PADDED,
        "frame_interval": setup.interval,
        # a prompt would have fewer rows the second time
        "enable_prefix_caching": False,
    }
    return ClientSettings(_env_prefix=_NO_VARIABLES, **own)


async def _ready(service: Service) -> None:
    """Raises TrunkNotReady."""
    try:
        async with asyncio.timeout(_PATIENCE):
            await service.connection.ready.wait()
    except TimeoutError:
        # which raises the reason, unless it is ready now
        _ = service.connection.local_parts
