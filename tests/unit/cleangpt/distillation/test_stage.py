import pytest
import torch
from torch import nn

from cleangpt.distillation.stage import only, standing_still


def test_a_fit_that_fails_leaves_no_gradient_behind() -> None:
    still, fitted = nn.Linear(2, 2), nn.Linear(2, 2)

    def fit() -> None:
        with standing_still(still, fitted), only(list(fitted.parameters())):
            fitted(still(torch.ones(1, 2))).sum().backward()
            assert all(each.grad is None for each in still.parameters())
            assert all(each.grad is not None for each in fitted.parameters())
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        fit()
    for each in (*still.parameters(), *fitted.parameters()):
        assert each.requires_grad
        assert each.grad is None
