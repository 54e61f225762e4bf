"""Several prompts in one batch: each as if it were alone."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from cleangpt.config import GPTConfig
from cleangpt.errors import PromptError
from cleangpt.inference.generation import ContextSlides, batch_generate, run_generation
from cleangpt.model import get_model
from cleangpt.tokenizers import create_tokenizer
from support.small_gpts import shaken

LETTERS = "abcdefgh"
PROMPTS = ("a", "bcdefgh", "hgfe", LETTERS + "ab")
KINDS = ("Vanilla", "SASP", "Factored", "FactoredALiBi", "gpt2", "llama")


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Without end and padding tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=create_tokenizer("character", texts=[LETTERS]).fast.backend_tokenizer
    )


def small(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=12, n_embd=16, n_layer=2, n_head=2, n_positions=16)
        config.bos_token_id = config.eos_token_id = None
        model: PreTrainedModel = GPT2LMHeadModel(config)
    elif kind == "llama":
        sizes = {"vocab_size": 12, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        ends = {"bos_token_id": None, "eos_token_id": None}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **ends, num_attention_heads=2, max_position_embeddings=16))
    else:
        model = get_model(kind, config=GPTConfig(block_size=16, vocab_size=12, n_layer=2, n_head=2, n_embd=16))
    return shaken(model)


def alone(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **sampling: object
) -> list[tuple[list[int], str]]:
    return [run_generation(model, tokenizer, prompt, **sampling) for prompt in PROMPTS]


@pytest.mark.parametrize("kind", KINDS)
def test_each_text_is_that_of_its_prompt_alone(tokenizer: PreTrainedTokenizerFast, kind: str) -> None:
    model = small(kind)
    found = batch_generate(model, tokenizer, PROMPTS, max_new_tokens=6)
    assert found == alone(model, tokenizer, max_new_tokens=6)
    # nothing would be tested if all texts ended in the same way
    assert len({tuple(ids[-6:]) for ids, _ in found}) > 1


@pytest.mark.filterwarnings("ignore::cleangpt.inference.generation.ContextSlides")
@pytest.mark.parametrize("kind", KINDS)
def test_texts_slide_each_at_its_own_place(tokenizer: PreTrainedTokenizerFast, kind: str) -> None:
    model = small(kind)
    assert batch_generate(model, tokenizer, PROMPTS, max_new_tokens=30) == alone(model, tokenizer, max_new_tokens=30)


def test_how_many_texts_slid_is_said_once(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.warns(ContextSlides, match="1 of 4 texts became longer") as said:
        batch_generate(small("Vanilla"), tokenizer, PROMPTS, max_new_tokens=9)
    assert len(said) == 1


def test_without_sliding_each_text_ends_with_its_own_last_position(tokenizer: PreTrainedTokenizerFast) -> None:
    model = small("Vanilla")
    found = batch_generate(model, tokenizer, PROMPTS, max_new_tokens=12, slide=False)
    assert [len(ids) for ids, _ in found] == [13, 16, 16, 16]
    assert found == alone(model, tokenizer, max_new_tokens=12, slide=False)


def test_each_text_ends_at_its_own_end(tokenizer: PreTrainedTokenizerFast) -> None:
    model = small("Vanilla")
    free = batch_generate(model, tokenizer, PROMPTS, max_new_tokens=6)
    end = free[1][0][len(PROMPTS[1]) + 1]
    model.generation_config.eos_token_id = [end]
    found = batch_generate(model, tokenizer, PROMPTS, max_new_tokens=6)
    assert found == alone(model, tokenizer, max_new_tokens=6)
    assert len({len(ids) - len(prompt) for (ids, _), prompt in zip(found, PROMPTS, strict=True)}) > 1


@pytest.mark.parametrize("penalty", [50.0, 0.02])
def test_a_penalty_sees_no_padding(tokenizer: PreTrainedTokenizerFast, penalty: float) -> None:
    """One so strong that nearly every id comes once, and its opposite, by which what was there comes again."""
    for first in LETTERS:
        model, sampling = small("Vanilla"), {"max_new_tokens": 10, "repetition_penalty": penalty}
        found = batch_generate(model, tokenizer, [first, "bcdefg"], **sampling)
        assert found == [run_generation(model, tokenizer, prompt, **sampling) for prompt in (first, "bcdefg")]


def test_beams_are_those_of_each_prompt_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    model = small("Vanilla")
    found = batch_generate(model, tokenizer, PROMPTS, max_new_tokens=6, num_beams=3)
    assert found == alone(model, tokenizer, max_new_tokens=6, num_beams=3)


def test_a_seed_repeats_the_batch(tokenizer: PreTrainedTokenizerFast) -> None:
    model = small("Vanilla")
    first, second, other = (
        batch_generate(model, tokenizer, PROMPTS, max_new_tokens=6, temperature=2.0, seed=seed) for seed in (1, 1, 2)
    )
    assert first == second != other


def test_the_prompt_that_cannot_be_continued_is_named_and_none_is(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small("Vanilla")
    monkeypatch.setattr(model, "generate", None)
    with pytest.raises(PromptError, match="prompt 2 of 3 has no token"):
        batch_generate(model, tokenizer, ["a", "", "b"])
    with pytest.raises(PromptError, match="prompt 3 of 3 has 20 tokens, but the model has only 16 positions"):
        batch_generate(model, tokenizer, ["a", "b", "c" * 20], slide=False)
    with pytest.raises(PromptError, match="give a list of texts"):
        batch_generate(model, tokenizer, "abc")
    with pytest.raises(PromptError, match="prompt 2 of 2 is list; give its text"):
        batch_generate(model, tokenizer, ["a", [1, 2]])  # type: ignore[list-item]


def test_no_prompts_give_no_texts(tokenizer: PreTrainedTokenizerFast) -> None:
    assert batch_generate(small("Vanilla"), tokenizer, []) == []
