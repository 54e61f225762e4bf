"""What all architectures do alike: as any causal model of transformers.

Shapes: B sequences, T rows.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache, PreTrainedModel

from cleangpt.config import GPTConfig
from cleangpt.errors import BadInputError
from cleangpt.model import VanillaConfig, get_model
from cleangpt.model.base import Layer
from support.small_gpts import ARCHITECTURES, label


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert expected.std() > 0.01  # the comparison would mean nothing if all numbers were alike


@torch.no_grad()
def test_decoding_row_by_row_with_a_cache_equals_the_forward_at_once(model: PreTrainedModel, ids: torch.Tensor) -> None:
    cache = DynamicCache()
    logits = [model(ids[:, :7], past_key_values=cache, use_cache=True).logits]
    logits.append(model(ids[:, 7:12], past_key_values=cache, use_cache=True).logits)
    logits += [model(ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits for i in range(12, 20)]
    same(torch.cat(logits, dim=1), model(ids).logits)


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_rows_behind_padding_give_the_logits_that_they_give_alone(
    model: PreTrainedModel, ids: torch.Tensor, kernel: str
) -> None:
    model.set_attn_implementation(kernel)
    mask_BT = torch.ones_like(ids)
    mask_BT[0, :6] = 0
    logits = model(ids, attention_mask=mask_BT).logits
    same(logits[0, 6:], model(ids[:1, 6:]).logits[0])
    same(logits[1], model(ids[1:]).logits[0])


@torch.no_grad()
def test_rows_that_go_on_behind_padding_keep_counting(model: PreTrainedModel, ids: torch.Tensor) -> None:
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    cache = DynamicCache()
    model(ids[:, :15], attention_mask=mask[:, :15], past_key_values=cache, use_cache=True)
    logits = model(ids[:, 15:], attention_mask=mask, past_key_values=cache, use_cache=True).logits
    same(logits[0], model(ids[:1, 6:]).logits[0, 9:])


def test_generating_from_prompts_of_unlike_lengths_gives_what_each_gives_alone(
    model: PreTrainedModel, ids: torch.Tensor
) -> None:
    mask_BT = torch.ones_like(ids)
    mask_BT[0, :6] = 0
    given = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    both = model.generate(ids * mask_BT, attention_mask=mask_BT, **given)
    alone = model.generate(ids[:1, 6:], **given)
    assert both[0, 20:].tolist() == alone[0, 14:].tolist()


@torch.no_grad()
def test_a_row_depends_on_no_later_token(model: PreTrainedModel, ids: torch.Tensor) -> None:
    changed_BT = ids.clone()
    changed_BT[:, 15] = (changed_BT[:, 15] + 1) % 60
    before, after = model(ids).logits, model(changed_BT).logits
    torch.testing.assert_close(after[:, :15], before[:, :15])
    assert (after[:, 15:] - before[:, 15:]).abs().amax(-1).min() > 1e-3


@torch.no_grad()
def test_rows_know_their_positions(model: PreTrainedModel) -> None:
    # the last row sees the same tokens with and without, but at other places
    same_set = torch.tensor([[5, 9, 7, 3], [9, 5, 7, 3]])
    logits = model(same_set).logits[:, -1]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@torch.no_grad()
def test_a_saved_model_comes_back_with_the_auto_classes(
    model: PreTrainedModel, ids: torch.Tensor, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == loaded.config.to_dict()
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    without_head = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(without_head(ids)[0], model.model(ids)[0])


def gradients(model: PreTrainedModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_the_loss_reaches_every_parameter(model: PreTrainedModel, ids: torch.Tensor) -> None:
    assert not [name for name, gradient in gradients(model, ids).items() if gradient.abs().max() < 1e-9]


def test_gradient_checkpointing_changes_no_gradient(model: PreTrainedModel, ids: torch.Tensor) -> None:
    expected = gradients(model.train(), ids)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(gradients(model, ids), expected)


def test_training_begins_near_a_uniform_guess_and_learns(fresh_model: PreTrainedModel, ids: torch.Tensor) -> None:
    model = fresh_model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(60.0).log().item(), abs=0.5)
    assert losses[-1] < losses[0] / 3


def test_training_makes_no_cache_unless_it_is_asked_for(fresh_model: PreTrainedModel, ids: torch.Tensor) -> None:
    assert fresh_model(ids).past_key_values is not None
    assert fresh_model.train()(ids).past_key_values is None
    assert fresh_model.train()(ids, use_cache=True).past_key_values.get_seq_length() == 20


@torch.no_grad()
def test_autocast_to_bfloat16_stays_near_the_exact_logits(model: PreTrainedModel, ids: torch.Tensor) -> None:
    exact = model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(ids).logits
    assert (rounded.float() - exact).abs().mean() < 0.05 * exact.std()


@pytest.mark.parametrize("fields", ARCHITECTURES, ids=label)
def test_without_bias_no_linear_layer_or_norm_has_one(fields: dict[str, Any]) -> None:
    config = GPTConfig(block_size=8, vocab_size=9, n_layer=1, n_head=1, n_embd=4, bias=False, **fields)
    model = get_model(config.model_type, config)
    assert not [key for key, _ in model.named_parameters() if key.endswith("bias")]


@pytest.mark.parametrize("fields", ARCHITECTURES, ids=label)
def test_dropout_changes_training_and_nothing_else(ids: torch.Tensor, fields: dict[str, Any]) -> None:
    config = GPTConfig(block_size=20, vocab_size=60, n_layer=1, n_head=2, n_embd=8, dropout=0.5, **fields)
    model = get_model(config.model_type, config).eval()
    torch.testing.assert_close(model(ids).logits, model(ids).logits)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


def test_the_head_is_the_token_embedding(fresh_model: PreTrainedModel) -> None:
    assert fresh_model.lm_head.weight is fresh_model.model.embed_tokens.weight
    assert fresh_model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_text_longer_than_the_positions_is_refused_and_with_alibi_read() -> None:
    sizes = {"block_size": 8, "vocab_size": 9, "n_layer": 1, "n_head": 1, "n_embd": 4}
    ids = torch.zeros(1, 9, dtype=torch.long)
    with pytest.raises(BadInputError, match="positions for 8 tokens, found 9"):
        get_model("Vanilla", GPTConfig(**sizes))(ids)
    assert get_model("Vanilla", GPTConfig(**sizes, alibi=True))(ids).logits.shape == (1, 9, 9)


def test_given_positions_beyond_the_last_are_refused() -> None:
    model = get_model("Vanilla", GPTConfig(block_size=8, vocab_size=9, n_layer=1, n_head=1, n_embd=4)).eval()
    ids = torch.zeros(1, 2, dtype=torch.long)
    assert model(ids, position_ids=torch.tensor([[6, 7]])).logits.shape == (1, 2, 9)
    with pytest.raises(BadInputError, match="positions for 8 tokens, found 9"):
        model(ids, position_ids=torch.tensor([[7, 8]]))


def test_padding_takes_no_position() -> None:
    sizes = {"block_size": 8, "vocab_size": 9, "n_layer": 1, "n_head": 1, "n_embd": 4}
    ids, mask = torch.zeros(2, 11, dtype=torch.long), torch.ones(2, 11, dtype=torch.long)
    mask[0, :3] = mask[1, :5] = 0
    model = get_model("Vanilla", GPTConfig(**sizes)).eval()
    assert model(ids, attention_mask=mask).logits.shape == (2, 11, 9)
    mask[0, 2] = 1
    with pytest.raises(BadInputError, match="positions for 8 tokens, found 9"):
        model(ids, attention_mask=mask)
    assert get_model("Vanilla", GPTConfig(**sizes, alibi=True))(ids, attention_mask=mask).logits.shape == (2, 11, 9)


def test_a_text_does_not_grow_beyond_the_positions() -> None:
    model = get_model("Vanilla", GPTConfig(block_size=8, vocab_size=9, n_layer=1, n_head=1, n_embd=4)).eval()
    ids = torch.ones(1, 6, dtype=torch.long)
    given = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert model.generate(ids, max_new_tokens=3, **given).shape == (1, 9)
    with pytest.raises(BadInputError, match="positions for 8 tokens, found 9"):
        model.generate(ids, max_new_tokens=4, **given)


@pytest.mark.parametrize("name", ["Vanilla", "Factored"])
def test_what_writes_into_a_residual_stream_begins_smaller(name: str) -> None:
    torch.manual_seed(0)
    sizes = {"block_size": 8, "vocab_size": 9, "n_layer": 8, "n_head": 4, "n_embd": 64}
    for layer in get_model(name, GPTConfig(**sizes)).model.layers:
        assert layer.mlp.up.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert layer.mlp.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
        if name == "Vanilla":
            assert layer.attention.output.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
        else:
            torch.testing.assert_close(layer.attention.output_mixing.weight, torch.eye(4) / 4)
            torch.testing.assert_close(layer.attention.value_mixing.weight, torch.eye(4))


def test_loading_a_model_draws_none_of_its_weights_anew(model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def test_a_layer_has_to_say_how_its_weights_begin() -> None:
    class Silent(Layer):
        pass

    with pytest.raises(TypeError, match="begin_weights"):
        Silent(VanillaConfig(), 0)


def test_token_ids_and_embeddings_at_once_are_refused(fresh_model: PreTrainedModel, ids: torch.Tensor) -> None:
    with pytest.raises(BadInputError, match="either input_ids or inputs_embeds"):
        fresh_model(ids, inputs_embeds=torch.zeros(2, 20, 24))
    with pytest.raises(BadInputError):
        fresh_model()
