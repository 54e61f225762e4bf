import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, Conv1D, PreTrainedModel

from cleangpt.errors import PackageMissingError
from cleangpt.model.lora import add_lora, linear_weights

RANK = 2


def _targets(model: PreTrainedModel, layer: int) -> list[str]:
    return list(linear_weights(model, [model.base_model.get_submodule(f"layers.{layer}")]))


def _shake(model: nn.Module) -> set[str]:
    """Gives the updates values as large as those of trained ones. The names of all that is trained."""
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    for each in trained.values():
        nn.init.normal_(each, std=0.1)
    return set(trained)


def _states(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_updates_of_low_rank_change_nothing_until_they_are_trained(model: PreTrainedModel, ids: Tensor) -> None:
    before_BTV = model(ids).logits
    add_lora(model, _targets(model, 0), RANK, alpha=RANK)
    # but for rounding: torch adds in another order where a tensor lies elsewhere
    torch.testing.assert_close(model(ids).logits, before_BTV, atol=1e-6, rtol=1e-5)


def test_only_updates_get_gradients_and_the_weights_stay_as_they_are(model: PreTrainedModel, ids: Tensor) -> None:
    before, targets = _states(model), _targets(model, 0)
    add_lora(model, targets, RANK, alpha=RANK)
    names = _shake(model)
    assert names == {f"{path}.lora_{each}.default.weight" for path in targets for each in "AB"}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(ids, labels=ids).loss.backward()
    assert {name for name, each in model.named_parameters() if each.grad is not None} == names
    optimizer.step()
    after = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_merged_model_computes_what_the_trained_one_did(model: PreTrainedModel, ids: Tensor) -> None:
    before = _states(model)
    untrained_BTV = model(ids).logits
    lora = add_lora(model, _targets(model, 0), RANK, alpha=3 * RANK)
    _shake(model)
    trained_BTV = model(ids).logits
    assert lora.merge_and_unload() is model
    assert not torch.allclose(trained_BTV, untrained_BTV, atol=1e-2)
    torch.testing.assert_close(model(ids).logits, trained_BTV, atol=1e-4, rtol=1e-4)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in before.items()
    }


@pytest.mark.parametrize("alpha", [RANK, 5 * RANK])
def test_an_update_has_at_most_the_rank_and_counts_alpha_by_rank(model: PreTrainedModel, alpha: int) -> None:
    model.double()
    before, targets = _states(model), _targets(model, 0)
    lora = add_lora(model, targets, RANK, alpha)
    _shake(model)
    products = {
        path: model.get_parameter(f"{path}.lora_B.default.weight")
        @ model.get_parameter(f"{path}.lora_A.default.weight")
        for path in targets
    }
    lora.merge_and_unload()
    updates = {name: value - before[name] for name, value in model.state_dict().items()}
    for path, product_OI in products.items():
        update_OI = updates.pop(f"{path}.weight")
        torch.testing.assert_close(update_OI, product_OI * alpha / RANK)
        assert torch.linalg.matrix_rank(update_OI, rtol=1e-9) == RANK
    assert not any(update.any() for update in updates.values())


def test_weights_that_lie_transposed_are_updated_too() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", vocab_size=30, n_positions=16, n_embd=8, n_layer=3, n_head=2)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids_BT = torch.tensor([[1, 5, 2, 7]])
    targets = list(linear_weights(model, [model.transformer.h[2]]))
    assert all(isinstance(model.get_submodule(path), Conv1D) for path in targets)
    lora = add_lora(model, targets, RANK, alpha=RANK)
    assert len(_shake(model)) == 2 * len(targets) == 8
    trained_BTV = model(ids_BT).logits
    lora.merge_and_unload()
    torch.testing.assert_close(model(ids_BT).logits, trained_BTV, atol=1e-4, rtol=1e-4)


def test_without_the_package_what_installs_it_is_named(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(PackageMissingError, match=r'peft: pip install "splitlearn\[lora\]"'):
        add_lora(model, _targets(model, 0), RANK, alpha=RANK)
