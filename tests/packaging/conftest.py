"""What is published, built once for all tests: compiling the kernels takes a minute."""

import pytest

from support import distributions


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> distributions.Built:
    return distributions.build(tmp_path_factory.mktemp("built"))
