import pytest
import torch

from cleangpt.distillation.stitching import StitchingLayers, block_map
from cleangpt.errors import BlockMapError, StitchingNeededError


@pytest.mark.parametrize(
    ("n_student", "n_teacher", "expected"),
    [(3, 3, (0, 1, 2)), (2, 6, (2, 5)), (1, 5, (4,)), (4, 2, (0, 0, 1, 1)), (3, 12, (3, 7, 11))],
)
def test_blocks_are_spread_evenly_and_the_last_learns_from_the_last(
    n_student: int, n_teacher: int, expected: tuple[int, ...]
) -> None:
    assert block_map(n_student, n_teacher) == expected


def test_a_chosen_map_is_taken() -> None:
    assert block_map(2, 6, [0, 4]) == (0, 4)
    assert block_map(2, 6, [3, 3]) == (3, 3)


@pytest.mark.parametrize("chosen", [[0], [0, 6], [-1, 2], [3, 1]])
def test_a_map_that_does_not_fit_is_refused(chosen: list[int]) -> None:
    with pytest.raises(BlockMapError, match="blocks 0 to 5"):
        block_map(2, 6, chosen)


def test_unequal_widths_get_one_map_for_each_block() -> None:
    stitches = StitchingLayers(2, 3, 5)
    rows_ND = torch.randn(4, 3)
    assert stitches(0, rows_ND).shape == (4, 5)
    assert not torch.equal(stitches(0, rows_ND), stitches(1, rows_ND))


def test_the_maps_have_biases_unless_they_are_left_out() -> None:
    assert StitchingLayers(1, 3, 5)(0, torch.zeros(3)).abs().max() > 0
    assert StitchingLayers(1, 3, 5, bias=False)(0, torch.zeros(3)).abs().max() == 0


def test_equal_widths_pass_unchanged_and_cost_no_parameters() -> None:
    stitches = StitchingLayers(2, 3, 3)
    rows_ND = torch.randn(4, 3)
    assert stitches(1, rows_ND) is rows_ND
    assert not list(stitches.parameters())


def test_unequal_widths_without_stitching_are_refused_with_both() -> None:
    with pytest.raises(StitchingNeededError, match=r"3 wide.*5"):
        StitchingLayers(2, 3, 5, use=False)
