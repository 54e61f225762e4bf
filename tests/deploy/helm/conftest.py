from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from support import helm_chart
from support.helm_chart import Helm

# they import what only `make test-helm` installs
collect_ignore_glob = [] if find_spec("helm_python") and find_spec("kubernetes_validate") else ["test_*.py"]


@pytest.fixture(scope="session")
def helm() -> Iterator[Helm]:
    with helm_chart.helm() as running:
        yield running
