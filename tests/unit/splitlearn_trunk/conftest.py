from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.running_split import RunningTrunk, running_trunk


@pytest.fixture
async def trunk(tiny_weights: Path) -> AsyncIterator[RunningTrunk]:
    async with running_trunk(tiny_weights, "1-4") as trunk:
        yield trunk
