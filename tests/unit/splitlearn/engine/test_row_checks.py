"""Rows of hidden states are refused for NaN and infinity, and for nothing else.

Shapes: T rows, D hidden size.
"""

import pytest
import torch

from splitlearn.engine.row_checks import RowChecks
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from support.sessions import load_parts
from support.tiny_models import N_LAYERS, random_model, save_sepweight, tiny_config


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Part:
    weights = save_sepweight(tmp_path_factory.mktemp("llama"), random_model(tiny_config("llama")), chat=False)
    return load_parts(weights, SplitPlan(1, 3, N_LAYERS))[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_largest_numbers_are_let_in_though_their_sum_is_infinite(trunk: Part, dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    for value in (most, -most):
        rows_TD = torch.full((3, trunk.hidden_size), value, dtype=dtype)
        assert RowChecks(trunk).refusal(rows_TD) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "bad", [(float("nan"),), (float("inf"),), (float("-inf"),), (float("inf"), float("-inf"))], ids=str
)
def test_one_number_that_is_not_finite_is_refused_wherever_it_is(
    trunk: Part, dtype: torch.dtype, bad: tuple[float, ...]
) -> None:
    for row, column in ((0, 0), (1, 17), (2, trunk.hidden_size - len(bad))):
        rows_TD = torch.zeros(3, trunk.hidden_size, dtype=dtype)
        rows_TD[row, column : column + len(bad)] = torch.tensor(bad, dtype=dtype)
        refusal = RowChecks(trunk).refusal(rows_TD)
        assert refusal is not None
        assert "1 of 3 rows hold NaN or infinity" in str(refusal)
