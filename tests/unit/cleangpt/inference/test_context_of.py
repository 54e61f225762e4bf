"""The context of models of transformers, whatever their configs call it."""

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from architectures.small_configs import small_config
from cleangpt.inference.generation import ContextSlides, run_generation
from cleangpt.model.context import context_of
from cleangpt.tokenizers import create_tokenizer

LENGTH = 24


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=create_tokenizer("character", texts=["abcdefgh"]).fast.backend_tokenizer
    )


@pytest.mark.parametrize(
    ("model_type", "field", "expected"),
    [
        ("mpt", "max_seq_len", LENGTH),
        ("whisper", "max_target_positions", LENGTH),
        ("codegen", "n_positions", LENGTH),
        # one row of the table is for padding
        ("roberta", "max_position_embeddings", LENGTH - 1),
        # these cannot be cut
        ("openai-gpt", "n_positions", LENGTH),
        ("roformer", "max_position_embeddings", LENGTH),
        # nothing in them ends
        ("rwkv", "context_length", None),
        ("xlnet", "hidden_size", None),
        ("jamba", "max_position_embeddings", None),
        ("bloom", "hidden_size", None),
    ],
)
def test_the_context_is_what_the_model_has_for_positions(model_type: str, field: str, expected: int | None) -> None:
    config = small_config(model_type)
    if expected is not None:
        setattr(config, field, LENGTH)
    with torch.device("meta"):
        assert context_of(AutoModelForCausalLM.from_config(config)) == expected


@pytest.mark.parametrize(
    ("model_type", "field"),
    [("mpt", "max_seq_len"), ("roberta", "max_position_embeddings"), ("openai-gpt", "n_positions")],
)
def test_a_text_of_any_type_slides_where_its_positions_end(
    tokenizer: PreTrainedTokenizerFast, model_type: str, field: str
) -> None:
    config = small_config(model_type)
    setattr(config, field, LENGTH)
    config.eos_token_id = None
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    # a tokenizer of few tokens cannot read the others
    with torch.no_grad():
        model.get_output_embeddings().weight[len(tokenizer) :] = 0.0
    with pytest.warns(ContextSlides, match=f"the model's {context_of(model)} positions"):
        found, _ = run_generation(model, tokenizer, "abc", max_new_tokens=2 * LENGTH)
    assert len(found) == 3 + 2 * LENGTH
