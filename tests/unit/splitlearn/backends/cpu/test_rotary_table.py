"""Shapes: T rows, n numbers of a head that are rotated."""

import pytest
import torch

from splitlearn.backends.cpu.rotary_table import RotaryTable

N = 6


class Rotation:
    """Counts positions; `asked` are those that it was ever asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, row_1TD: torch.Tensor, positions_1T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += positions_1T[0].tolist()
        angles_1Tn = positions_1T[..., None].float() * torch.arange(1.0, N + 1)
        return angles_1Tn.to(row_1TD.dtype), -angles_1Tn.to(row_1TD.dtype)


def table(rotate: Rotation, n_positions: int | None) -> RotaryTable:
    return RotaryTable(rotate, torch.empty(1, 1, 4, dtype=torch.float64), n_positions)


@pytest.mark.parametrize(
    "ranges", [[(0, 1)], [(5, 1)], [(1020, 9)], [(1024, 2000)], [(3, 1), (4000, 1), (3, 1)], [(1000, 30), (0, 2)]]
)
def test_rows_get_the_numbers_of_their_positions_contiguous(ranges: list[tuple[int, int]]) -> None:
    positions = [start + i for start, count in ranges for i in range(count)]
    expected_T = torch.tensor(positions).double()
    cosines, sines = table(Rotation(), 5000).cos_sin(ranges)
    assert torch.equal(cosines[0, :, 0], expected_T)
    assert torch.equal(sines[0, :, N - 1], -N * expected_T)
    assert cosines.is_contiguous()
    assert sines.is_contiguous()


def test_each_position_is_computed_once_and_none_beyond_the_last() -> None:
    rotate = Rotation()
    rotary = table(rotate, 1500)
    for start in (1499, 0, 1024, 1023):
        rotary.cos_sin([(start, 1)])
    assert sorted(rotate.asked) == list(range(1500))
