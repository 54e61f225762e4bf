from collections.abc import Iterator

import pytest

from support import helm_chart
from support.helm_chart import Helm


@pytest.fixture(scope="session")
def helm() -> Iterator[Helm]:
    with helm_chart.helm() as running:
        yield running
