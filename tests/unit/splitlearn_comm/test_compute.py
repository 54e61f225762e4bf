import torch

from splitlearn_comm.core import ModelComputeFunction


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
