import pytest
from torch import nn

from cleangpt.trainers.modes import evaluation_mode


def test_each_module_has_its_own_mode_again_even_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model[1].eval()

    def fail() -> None:
        with evaluation_mode(model):
            assert not any(each.training for each in model.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [each.training for each in model.modules()] == [True, True, False]
