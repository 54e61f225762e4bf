"""Training's loss is that of the model's own forward, whatever stands between its last layer and its logits."""

from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from cleangpt.data.batches import Batch
from cleangpt.distillation.blocks import Blocks
from cleangpt.errors import BadInputError, ModelFormError, NotCausalError
from cleangpt.trainers import learned_loss
from cleangpt.trainers.causal_logits import causal_logits, try_out

_SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# each does something else to its logits, or before its head; large enough to be seen
_TYPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "cohere": {"logit_scale": 0.0625},
    "granite": {"logits_scaling": 8.0},
    "gemma2": {"final_logit_softcapping": 0.5},
    "bert": {"is_decoder": True},
    "roberta": {"is_decoder": True},
}


def model_of(model_type: str, noise: float = 0.2, **more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    plain = CONFIG_MAPPING[model_type]()
    wanted = {name: value for name, value in _SMALL.items() if hasattr(plain, name)}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**{**wanted, **more}))
    with torch.no_grad():
        for each in model.parameters():
            each.add_(noise * torch.randn_like(each))
    return model.eval()


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(3, 40, (3, 10), generator=generator)
    learned_BT = torch.rand(3, 10, generator=generator) < 0.5
    return Batch(ids_BT, learned_BT)


@pytest.mark.parametrize("model_type", _TYPES)
def test_the_loss_is_that_of_the_models_own_logits(model_type: str) -> None:
    model, rows = model_of(model_type, **_TYPES[model_type]), batch()
    assert rows.learned_BT is not None
    with torch.no_grad():
        logits_BTV, chosen_BP = model(input_ids=rows.ids_BT).logits, rows.learned_BT[:, 1:]
        some = functional.cross_entropy(logits_BTV[:, :-1][chosen_BP], rows.ids_BT[:, 1:][chosen_BP])
        whole = functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), rows.ids_BT[:, 1:].flatten())
        torch.testing.assert_close(learned_loss(model, rows), some)
        torch.testing.assert_close(learned_loss(model, Batch(rows.ids_BT)), whole)
        # the shortcut round the model's own head is another number for all but the first
        hidden_BTD = model.base_model(input_ids=rows.ids_BT).last_hidden_state
        short = functional.cross_entropy(
            model.get_output_embeddings()(hidden_BTD)[:, :-1].flatten(0, 1), rows.ids_BT[:, 1:].flatten()
        )
    assert torch.isclose(short, whole, rtol=1e-3) == (model_type == "llama")


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra"])
def test_a_model_that_sees_the_future_is_refused_also_where_its_fresh_weights_hardly_show_it(
    model_type: str, noise: float
) -> None:
    model = model_of(model_type, noise)
    with pytest.raises(NotCausalError, match=f"{model_type} predicts an id from those after it .*is_decoder"):
        learned_loss(model, batch())


def test_a_plain_module_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(ModelFormError, match=r"Linear has no config, get_input_embeddings, .*PreTrainedModel"):
        learned_loss(torch.nn.Linear(2, 2), batch())


@pytest.mark.parametrize(("id_", "at"), [(40, 0), (-1, 3), (40, 9)])
def test_ids_outside_the_vocabulary_are_refused_also_where_they_are_only_predicted(id_: int, at: int) -> None:
    ids_BT = batch().ids_BT
    ids_BT[1, at] = id_
    model = model_of("llama")
    with pytest.raises(BadInputError, match=f"the id {id_}, and the model has the ids 0 to 39"):
        learned_loss(model, Batch(ids_BT))
    with pytest.raises(BadInputError, match=f"the id {id_}"):
        Blocks(model).after(ids_BT, 0)
    with pytest.raises(BadInputError, match=f"the id {id_}"):
        Blocks(model).logits(Batch(ids_BT))


def test_a_head_that_needs_all_positions_gets_them() -> None:
    """Its logits at a position are those of the head, less the mean over the positions before."""

    class Centered(torch.nn.Module):
        def __init__(self, model: PreTrainedModel) -> None:
            super().__init__()
            self.model, self.config = model, model.config

        def get_input_embeddings(self) -> torch.nn.Module:
            return self.model.get_input_embeddings()

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.model.get_output_embeddings()

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            found = self.model(input_ids=input_ids, use_cache=use_cache)
            n_before = torch.arange(1, found.logits.shape[-2] + 1)[:, None]
            found.logits = found.logits - found.logits.cumsum(-2) / n_before
            return found

    model, rows = Centered(model_of("llama")), batch()
    assert not try_out(model)
    chosen_BT = rows.learned_BT
    with torch.no_grad():
        expected_BTV = model(rows.ids_BT, use_cache=False).logits
        torch.testing.assert_close(causal_logits(model, rows.ids_BT, chosen_BT), expected_BTV[chosen_BT])


class Rounded(torch.nn.Module):
    """A model with rounding noise: what it adds to a logit depends on the sizes and the ids of the whole batch.

    The noise is a share of the largest logit, as that of a mixture of experts, whose experts get other rows each time.
    """

    def __init__(self, model: PreTrainedModel, noise: float, seed: int) -> None:
        super().__init__()
        self.model, self.config, self._noise, self._seed = model, model.config, noise, seed

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.model.get_output_embeddings()

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        found = self.model(input_ids=input_ids, use_cache=use_cache)
        content = hash((self._seed, *input_ids.flatten().tolist()))
        generator = torch.Generator().manual_seed(content % 2**63)
        noise = torch.randn(found.logits.shape, generator=generator) / 3
        found.logits = found.logits + self._noise * found.logits.abs().max() * noise
        return found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("noise", [1e-6, 1e-4])
def test_rounding_noise_is_not_taken_for_the_future(noise: float, seed: int) -> None:
    try_out(Rounded(model_of("llama"), noise, seed))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra"])
def test_a_model_that_sees_the_future_is_refused_also_through_rounding_noise(model_type: str, seed: int) -> None:
    with pytest.raises(NotCausalError):
        try_out(Rounded(model_of(model_type), 1e-4, seed))


def test_trying_a_model_out_changes_nothing_of_it() -> None:
    model = model_of("llama").train()
    model.lm_head.eval()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert try_out(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not model.lm_head.training


@pytest.mark.parametrize("model_type", ["granite", "gemma2"])
def test_a_distillation_fits_the_models_own_logits(model_type: str) -> None:
    model, rows = model_of(model_type, **_TYPES[model_type]), batch()
    assert rows.learned_BT is not None
    with torch.no_grad():
        expected_BTV = model(input_ids=rows.ids_BT).logits
        torch.testing.assert_close(Blocks(model).logits(rows), expected_BTV[:, :-1][rows.learned_BT[:, 1:]])


def test_a_model_whose_weights_are_broken_is_not_taken_for_one_that_sees_the_future() -> None:
    model, rows = model_of("llama"), batch()
    weights = [each.detach().clone() for each in model.parameters()]
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
        assert learned_loss(model, rows).isnan()
        for each, before in zip(model.parameters(), weights, strict=True):
            each.copy_(before)
    # and is tried again
    assert try_out(model)
