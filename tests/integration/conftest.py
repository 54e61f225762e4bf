"""Fixtures of the integration tests: both services, real and connected."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.running_split import Split, running_split


@pytest.fixture
async def split(tiny_weights: Path) -> AsyncIterator[Split]:
    """A trunk and a client service of the tiny llama."""
    async with running_split(tiny_weights) as running:
        yield running
