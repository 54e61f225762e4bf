"""Text with a natural spread of words, short enough to analyse in no time."""

import pytest

from cleangpt.data.sources import read_texts


@pytest.fixture(scope="session")
def answers() -> list[str]:
    return read_texts("stdlib-questions", max_samples=400)
