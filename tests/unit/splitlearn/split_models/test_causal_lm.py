"""The three faces of a part, against the whole model."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers import BambaConfig, MambaConfig, PreTrainedModel

from llm_sepweight import LayersOutOfRangeError
from splitlearn.errors import BadCheckpoint, BadRows, UnsupportedModel
from splitlearn.split_models import GPT2BottomModel, GPT2TopModel, GPT2TrunkModel, split_class
from support.tiny_models import ARCHITECTURES, N_LAYERS, VOCABULARY, random_model, tiny_config

IDS = torch.randint(3, VOCABULARY, (3, 17), generator=torch.Generator().manual_seed(5))
DOCUMENTED = ("gpt2", "gemma", "qwen2")


def in_three(model: PreTrainedModel, first: int = 2, last: int = 4) -> tuple[Any, Any, Any]:
    bottom, trunk, top = (split_class(model.config.model_type, part) for part in ("bottom", "trunk", "top"))
    state: Any = model.state_dict()
    return (
        bottom.from_pretrained_split(full_state_dict=state, config=model.config, end_layer=first),  # type: ignore[attr-defined]
        trunk.from_pretrained_split(full_state_dict=state, config=model.config, start_layer=first, end_layer=last),  # type: ignore[attr-defined]
        top.from_pretrained_split(full_state_dict=state, config=model.config, start_layer=last),  # type: ignore[attr-defined]
    )


@pytest.fixture(scope="module")
def gpt2() -> PreTrainedModel:
    return random_model(tiny_config("gpt2")).requires_grad_(False)


@pytest.mark.parametrize("model_type", [*DOCUMENTED, "llama", "mixtral", "opt", "bloom"])
def test_a_batch_gives_the_logits_of_the_whole_model(model_type: str) -> None:
    model = random_model(tiny_config(model_type)).requires_grad_(False)
    bottom, trunk, top = in_three(model)
    hidden_BTD = trunk(bottom(IDS))
    assert hidden_BTD.shape == (3, 17, 64)
    torch.testing.assert_close(top(hidden_BTD).logits, model(IDS).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model_type", DOCUMENTED)
def test_padding_is_masked_as_in_the_whole_model(model_type: str) -> None:
    model = random_model(tiny_config(model_type)).requires_grad_(False)
    bottom, trunk, top = in_three(model)
    mask = torch.ones_like(IDS)
    mask[0, :6] = 0
    given = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    logits_BTV = top(trunk(bottom(IDS, **given), **given), **given).logits
    torch.testing.assert_close(logits_BTV[0, 6:], model(IDS, **given).logits[0, 6:], atol=1e-4, rtol=0)
    assert not torch.allclose(logits_BTV[0, 6:], top(trunk(bottom(IDS))).logits[0, 6:], atol=1e-2)


@pytest.mark.parametrize("model_type", DOCUMENTED)
def test_cached_steps_give_the_logits_of_the_whole_sequence(model_type: str) -> None:
    model = random_model(tiny_config(model_type)).requires_grad_(False)
    parts = in_three(model)
    caches = [part.new_cache() for part in parts]
    steps = []
    for ids in (IDS[:, :9], IDS[:, 9:10], IDS[:, 10:]):
        rows: Any = ids
        for part, cache in zip(parts, caches, strict=True):
            rows = part(rows, past_key_values=cache)
        steps.append(rows.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), model(IDS).logits, atol=1e-4, rtol=0)


def test_positions_go_on_where_the_cache_ends_even_if_the_model_does_not_count() -> None:
    config = BambaConfig(
        **{**ARCHITECTURES["llama"], "attn_layer_indices": [4]},
        mamba_n_heads=4,
        mamba_d_head=32,
        mamba_d_state=8,
        mamba_n_groups=1,
    )
    model = random_model(config).requires_grad_(False)
    parts = in_three(model)
    caches = [part.new_cache() for part in parts]
    steps = []
    for ids in (IDS[:, :16], IDS[:, 16:]):
        rows: Any = ids
        for part, cache in zip(parts, caches, strict=True):
            rows = part(rows, past_key_values=cache)
        steps.append(rows.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), model(IDS).logits, atol=1e-4, rtol=0)


def test_a_model_that_goes_on_row_by_row_refuses_several_at_once() -> None:
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=5, state_size=8)
    bottom, _, _ = in_three(random_model(config).requires_grad_(False))
    cache = bottom.new_cache()
    bottom(IDS[:, :9], past_key_values=cache)
    with pytest.raises(BadRows, match="mamba goes on row by row"):
        bottom(IDS[:, 9:], past_key_values=cache)
    torch.testing.assert_close(bottom(IDS[:, 9:10], past_key_values=cache), bottom(IDS)[:, 9:10], atol=1e-5, rtol=0)


def test_the_top_takes_what_the_models_own_forward_takes(gpt2: PreTrainedModel) -> None:
    bottom, trunk, top = in_three(gpt2)
    output = top(trunk(bottom(IDS)), labels=IDS, logits_to_keep=0)
    torch.testing.assert_close(output.loss, gpt2(IDS, labels=IDS).loss)
    assert top(trunk(bottom(IDS)), logits_to_keep=1).logits.shape == (3, 1, VOCABULARY)


def test_threads_do_not_mix_up_their_rows(gpt2: PreTrainedModel) -> None:
    _, trunk, _ = in_three(gpt2)
    batches = [torch.randn(1, 3 + i % 4, 64, generator=torch.Generator().manual_seed(i)) for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(trunk, batches))
    for batch, result in zip(batches, results, strict=True):
        torch.testing.assert_close(result, trunk(batch), atol=1e-5, rtol=0)


def test_gradients_flow_through_all_three_parts(gpt2: PreTrainedModel) -> None:
    parts = [part.requires_grad_(True) for part in in_three(copy.deepcopy(gpt2))]
    bottom, trunk, top = parts
    top(trunk(bottom(IDS)), labels=IDS).loss.backward()
    assert all(float(next(part.parameters()).grad.abs().sum()) > 0 for part in parts)


def test_names_in_the_state_dict_are_those_of_the_whole_model(gpt2: PreTrainedModel) -> None:
    whole = gpt2.state_dict()
    together: dict[str, torch.Tensor] = {}
    for part in in_three(gpt2):
        own = part.state_dict()
        assert not own.keys() & together.keys()
        together |= own
    assert together.keys() == whole.keys()
    assert all(torch.equal(together[name], tensor) for name, tensor in whole.items())


def test_a_new_part_is_random_trains_and_takes_saved_weights(gpt2: PreTrainedModel) -> None:
    saved = in_three(gpt2)
    new = [GPT2BottomModel(gpt2.config, 2), GPT2TrunkModel(gpt2.config, 2, 4), GPT2TopModel(gpt2.config, 4)]
    for part, source in zip(new, saved, strict=True):
        assert part.training
        assert all(parameter.requires_grad for parameter in part.parameters())
        part.load_state_dict(source.state_dict())
        part.eval()
    bottom, trunk, top = new
    torch.testing.assert_close(top(trunk(bottom(IDS))).logits, gpt2(IDS).logits, atol=1e-4, rtol=0)


def test_a_state_dict_of_other_layers_is_refused_by_the_names_of_the_whole(gpt2: PreTrainedModel) -> None:
    trunk = GPT2TrunkModel(gpt2.config, 2, 4)
    with pytest.raises(RuntimeError, match=r'Missing key.*"transformer\.h\.2\.(?s:.*)Unexpected.*transformer\.h\.0'):
        trunk.load_state_dict(GPT2TrunkModel(gpt2.config, 0, 2).state_dict())


def test_a_part_inside_another_module_saves_and_loads(gpt2: PreTrainedModel) -> None:
    outer = torch.nn.ModuleDict({"mine": in_three(gpt2)[1]})
    state = outer.state_dict()
    assert all(name.startswith("mine.transformer.h.") for name in state)
    assert outer.load_state_dict(state).missing_keys == []


def test_the_config_that_was_given_stays_as_it_was(gpt2: PreTrainedModel) -> None:
    config = copy.deepcopy(gpt2.config)
    GPT2TrunkModel(config, 2, 4)
    GPT2TrunkModel.from_pretrained_split(gpt2.state_dict(), config, 2, 4)
    assert config.to_dict() == gpt2.config.to_dict()


def test_tensors_of_the_state_dict_are_used_and_not_copied(gpt2: PreTrainedModel) -> None:
    bottom, _, top = in_three(gpt2)
    place = gpt2.get_input_embeddings().weight.data_ptr()
    assert bottom.get_embeddings().weight.data_ptr() == place
    assert top.get_lm_head().weight.data_ptr() == place


def test_one_of_two_tied_tensors_is_enough_and_others_may_not_be_missing(gpt2: PreTrainedModel) -> None:
    state = gpt2.state_dict()
    head = state.pop("lm_head.weight")
    top = GPT2TopModel.from_pretrained_split(state, gpt2.config, 4)
    assert torch.equal(top.get_lm_head().weight, state["transformer.wte.weight"])
    headed = {**state, "lm_head.weight": head}
    del headed["transformer.wte.weight"]
    assert torch.equal(GPT2BottomModel.from_pretrained_split(headed, gpt2.config, 1).get_embeddings().weight, head)
    del state["transformer.ln_f.weight"], state["transformer.ln_f.bias"]
    with pytest.raises(BadCheckpoint, match=r"lacks 2 tensors of this part, the first is transformer\.ln_f"):
        GPT2TopModel.from_pretrained_split(state, gpt2.config, 4)


def test_another_dtype_is_a_copy(gpt2: PreTrainedModel) -> None:
    trunk = GPT2TrunkModel.from_pretrained_split(gpt2.state_dict(), gpt2.config, 2, 4, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in trunk.state_dict().values()} == {torch.bfloat16}
    assert trunk(torch.zeros(1, 2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_the_config_of_another_architecture_is_refused_with_both() -> None:
    with pytest.raises(UnsupportedModel, match="GPT2TrunkModel cuts gpt2 models, the config is of a llama"):
        GPT2TrunkModel(tiny_config("llama"), 1, 2)


def test_layers_that_the_model_lacks_are_refused(gpt2: PreTrainedModel) -> None:
    with pytest.raises(LayersOutOfRangeError, match=f"{N_LAYERS} layers"):
        GPT2TrunkModel(gpt2.config, 4, 9)


@pytest.mark.parametrize("model_type", ["gpt2", "gemma", "qwen2", "bloom", "olmo"])
def test_the_modules_of_a_part_are_where_the_bases_say(model_type: str) -> None:
    model = random_model(tiny_config(model_type)).requires_grad_(False)
    bottom, trunk, top = in_three(model)
    entered: list[torch.Tensor] = []
    bottom.get_transformer_blocks()[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    hidden_BTD = trunk(bottom(IDS))
    positions = torch.arange(17)[None]
    encoded = bottom.apply_position_encoding(bottom.get_embeddings()(IDS), positions)
    torch.testing.assert_close(encoded, entered[0], atol=1e-6, rtol=0)
    rows: list[torch.Tensor] = []
    top.get_transformer_blocks()[-1].register_forward_hook(
        lambda _, __, output: rows.append(output[0] if isinstance(output, tuple) else output)
    )
    logits = top(hidden_BTD).logits
    torch.testing.assert_close(top.get_lm_head()(top.get_final_norm()(rows[0])), logits, atol=1e-4, rtol=0)
    assert len(trunk.get_transformer_blocks()) == 2
    assert trunk.prepare_attention_mask(None, hidden_BTD) is None


def test_the_layer_pattern_finds_the_layers_in_the_whole_models_names(gpt2: PreTrainedModel) -> None:
    assert in_three(gpt2)[1].get_layer_name_pattern() == r"\.h\.[0-9]+"


def test_weights_of_the_whole_model_can_be_put_in_later(gpt2: PreTrainedModel) -> None:
    trunk = GPT2TrunkModel(gpt2.config, 2, 4).load_split_weights(gpt2.state_dict()).eval()
    assert torch.equal(trunk(torch.ones(1, 2, 64)), in_three(gpt2)[1](torch.ones(1, 2, 64)))


def test_a_part_can_be_copied(gpt2: PreTrainedModel) -> None:
    trunk = in_three(gpt2)[1]
    assert torch.equal(copy.deepcopy(trunk)(torch.ones(1, 2, 64)), trunk(torch.ones(1, 2, 64)))
