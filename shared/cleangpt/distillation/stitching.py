"""The mapping of student blocks to teacher blocks, and the linear maps between blocks of unequal width.

Shapes: X any leading dimensions, S the student's width, D the teacher's width.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cleangpt.errors import BlockMapError, StitchingNeededError


def block_map(n_student: int, n_teacher: int, chosen: Sequence[int] | None = None) -> tuple[int, ...]:
    """The teacher block, counted from 0, that each student block learns from.

    By default the blocks are spread evenly, and the last learns from the last. In a student deeper than its teacher,
    several blocks learn from the same one.

    Raises:
        BlockMapError: `chosen` is not one existing teacher block per student block, in ascending order.
    """
    if chosen is None:
        return tuple(max(0, round((block + 1) * n_teacher / n_student) - 1) for block in range(n_student))
    found = tuple(chosen)
    growing = all(a <= b for a, b in pairwise(found))
    if len(found) != n_student or not growing or not all(0 <= block < n_teacher for block in found):
        raise BlockMapError(
            f"the block map {list(found)} should name {n_student} of the teacher's blocks 0 to {n_teacher - 1} in "
            "growing order, one for each student block"
        )
    return found


class StitchingLayers(nn.Module):
    """One linear map from the student's width to the teacher's per student block; the identity if the widths agree.

    The maps are used only for fitting and are not part of the student.

    Raises:
        StitchingNeededError: the widths differ and `use` is False.
    """

    def __init__(
        self, n_blocks: int, student_width: int, teacher_width: int, *, use: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        equal = student_width == teacher_width
        if not use and not equal:
            raise StitchingNeededError(
                f"the student's blocks are {student_width} wide, the teacher's {teacher_width}; "
                "set use_stitching_layers=True or give the student the teacher's width"
            )
        self.maps = nn.ModuleList(
            nn.Identity() if equal else nn.Linear(student_width, teacher_width, bias=bias) for _ in range(n_blocks)
        )

    def forward(self, block: int, hidden_XS: Tensor) -> Tensor:
        """The student block's output mapped to the teacher's width, [X, D]."""
        return torch.as_tensor(self.maps[block](hidden_XS))
