from pathlib import Path

import pytest
from matplotlib.image import imread

from splitlearn_cli.load.plan import Load
from splitlearn_cli.load.plot import draw
from splitlearn_cli.load.record import MeasuredLevel, Record, RequestFailure


def level(load: Load, seconds: float) -> MeasuredLevel:
    itl = (seconds / 10, seconds / 5)
    whole = Record(0, 0.0, None, 2 * seconds, ttft=seconds, itl=itl, output_tokens=3, prompt_tokens=4)
    failed = Record(1, 0.0, None, 0.1, failure=RequestFailure("HTTP 500", "out of order"))
    return MeasuredLevel(load, 2, [whole, failed])


@pytest.mark.parametrize("seconds", [0.05, 5.0])
@pytest.mark.parametrize(
    "loads",
    [
        [Load("concurrency", 16), Load("concurrency", 1), Load("concurrency", 4)],
        [Load("rate", 0.5), Load("rate", 1.0)],
        [Load("rate", 0.5)],
    ],
)
def test_the_plot_is_a_png_with_three_panels_of_ink(tmp_path: Path, loads: list[Load], seconds: float) -> None:
    path = tmp_path / "load.png"

    draw(path, "tiny, completions", [level(load, seconds * load.value) for load in loads])

    assert path.read_bytes().startswith(b"\x89PNG")
    dark = imread(path)[..., :3].min(axis=2) < 0.5
    thirds = dark.shape[1] // 3
    assert all(dark[:, n * thirds : (n + 1) * thirds].any() for n in range(3))


def test_a_level_without_any_answer_can_be_drawn(tmp_path: Path) -> None:
    failed = Record(1, 0.0, None, 0.1, failure=RequestFailure("HTTP 500", "out of order"))
    levels = [MeasuredLevel(Load("rate", value), 1, [failed]) for value in (1.0, 2.0)]

    draw(tmp_path / "load.png", "tiny", levels)

    assert (tmp_path / "load.png").stat().st_size > 0
