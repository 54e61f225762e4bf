import pytest
import torch

from splitlearn_comm.core import ComputeOptions, ModelComputeFunction


def test_a_model_is_run_in_eval_mode_without_gradients() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.9))
    function = ModelComputeFunction(model)

    output = function.compute(torch.ones(2, 4))

    assert not output.requires_grad
    assert torch.equal(output, function.compute(torch.ones(2, 4)))


def test_a_models_info_names_it_and_its_device() -> None:
    named = ModelComputeFunction(torch.nn.Identity(), model_name="mine").get_info()
    unnamed = ModelComputeFunction(torch.nn.Identity()).get_info()

    assert (named["service_name"], named["device"]) == ("mine", "cpu")
    assert unnamed["service_name"] == "Identity"


def test_a_server_has_at_least_one_worker() -> None:
    with pytest.raises(ValueError, match="max_workers is at least 1, got 0"):
        ComputeOptions(max_workers=0)
