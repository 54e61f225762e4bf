import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TextStreamer

from cleangpt.config import GPTConfig
from cleangpt.errors import GenerationSettingsError, PromptError
from cleangpt.inference.generation import context_of, run_generation
from cleangpt.model import get_model
from cleangpt.tokenizers.hugging_face import HuggingFaceTokenizer
from support.small_gpts import shaken

PROMPT = "Turn to the"


@pytest.fixture
def model(tiny_model: PreTrainedModel) -> PreTrainedModel:
    """Its end token is the least likely of all, so that answers reach their limit."""
    shaken(tiny_model)
    tiny_model.generation_config.eos_token_id = None
    return tiny_model


def test_the_documented_snippet_gives_ids_and_their_text(
    model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(0)
    generated_ids, generated_text = run_generation(
        model=model,
        tokenizer=tiny_tokenizer,
        prompt_text=PROMPT,
        device=torch.device("cpu"),
        max_new_tokens=10,
        temperature=0.8,
        top_k=50,
    )
    prompt = tiny_tokenizer.encode(PROMPT)
    assert generated_ids[: len(prompt)] == prompt
    assert len(generated_ids) <= len(prompt) + 10
    assert generated_text == tiny_tokenizer.decode(generated_ids, skip_special_tokens=True)


def test_without_temperature_every_id_is_the_likeliest(
    model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    expected = tiny_tokenizer.encode(PROMPT)
    n_prompt = len(expected)
    with torch.inference_mode():
        while len(expected) < n_prompt + 8:
            expected.append(int(model.eval()(torch.tensor([expected])).logits[0, -1].argmax()))
            if expected[-1] == tiny_tokenizer.eos_token_id:
                break
    found, _ = run_generation(model, HuggingFaceTokenizer(tiny_tokenizer), PROMPT, max_new_tokens=8)
    assert found == expected


def test_a_models_own_sampling_rules_do_not_change_what_was_asked_for(
    model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    plain, _ = run_generation(model, tiny_tokenizer, PROMPT, temperature=1.5, seed=3)
    model.generation_config.update(do_sample=True, temperature=0.01, top_k=1, top_p=0.01, repetition_penalty=9.0)
    assert run_generation(model, tiny_tokenizer, PROMPT, temperature=1.5, seed=3)[0] == plain


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-3}])
def test_each_rule_narrowed_to_one_id_gives_the_likeliest(
    model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, narrow: dict[str, float]
) -> None:
    greedy, _ = run_generation(model, tiny_tokenizer, PROMPT, max_new_tokens=6)
    drawn, _ = run_generation(
        model, tiny_tokenizer, PROMPT, **{"max_new_tokens": 6, "temperature": 1.0, "seed": 1, **narrow}
    )
    assert drawn == greedy


def test_a_seed_repeats_a_draw_and_leaves_torchs_own_generator_alone(
    model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    before = torch.get_rng_state()
    first, second, other = (
        run_generation(model, tiny_tokenizer, PROMPT, temperature=2.0, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert first == second != other
    assert torch.equal(before, torch.get_rng_state())


def test_typical_penalty_and_beams_reach_transformers(
    model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    greedy, _ = run_generation(model, tiny_tokenizer, PROMPT, max_new_tokens=12)
    punished, _ = run_generation(model, tiny_tokenizer, PROMPT, max_new_tokens=12, repetition_penalty=50.0)
    assert len(set(punished)) == len(punished) > len(set(greedy))
    wide, narrow = (
        run_generation(model, tiny_tokenizer, PROMPT, temperature=3.0, typical_p=share, seed=4)[0]
        for share in (1.0, 0.01)
    )
    assert wide != narrow
    beams, _ = run_generation(model, tiny_tokenizer, PROMPT, max_new_tokens=12, num_beams=4)
    assert _likelihood(model, beams) >= _likelihood(model, greedy)


def test_without_sliding_the_text_ends_where_the_models_positions_end(
    model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    found, _ = run_generation(model, without_end(tiny_tokenizer), PROMPT, max_new_tokens=1000, slide=False)
    assert len(found) == 64


def test_a_prompt_that_cannot_be_continued_is_refused(
    model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(PromptError, match="no token"):
        run_generation(model, tiny_tokenizer, "")
    with pytest.raises(PromptError, match="only 64 positions"):
        run_generation(model, tiny_tokenizer, "left " * 64, slide=False)
    model.resize_token_embeddings(4)
    with pytest.raises(PromptError, match="ids below 4"):
        run_generation(model, tiny_tokenizer, PROMPT)


def test_beams_are_not_streamed(model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(GenerationSettingsError, match="2 beams"):
        run_generation(model, tiny_tokenizer, PROMPT, streamer=TextStreamer(tiny_tokenizer), num_beams=2)


def test_the_model_is_left_in_the_mode_it_was_in(
    model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model.train()
    seen: list[bool] = []
    hook = model.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    run_generation(model, tiny_tokenizer, PROMPT, max_new_tokens=1)
    hook.remove()
    assert model.training
    # while it generates, dropout is off
    assert seen == [False]


def test_an_error_while_it_generates_leaves_the_model_in_the_mode_it_was_in(
    model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a layer")

    model.train()
    hook = model.register_forward_pre_hook(fail)
    with pytest.raises(KeyError, match="a layer"):
        run_generation(model, tiny_tokenizer, PROMPT, max_new_tokens=1)
    hook.remove()
    assert model.training


def test_a_model_with_alibi_has_no_last_position() -> None:
    sizes = {"block_size": 16, "vocab_size": 30, "n_layer": 1, "n_head": 2, "n_embd": 8}
    with_end, without = (get_model("Vanilla", config=GPTConfig(**sizes, alibi=alibi)) for alibi in (False, True))
    assert context_of(with_end) == 16
    assert context_of(without) is None


def test_a_text_ends_at_any_of_the_ends_that_the_models_folder_names(
    model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    n_prompt = len(tiny_tokenizer.encode(PROMPT))
    free = run_generation(model, tiny_tokenizer, PROMPT, max_new_tokens=8)[0][n_prompt:]
    end = free[2]
    without_pad = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer)
    for named in (end, [299, end]):
        model.generation_config.eos_token_id = named
        for fast in (tiny_tokenizer, without_pad):
            found = run_generation(model, fast, PROMPT, max_new_tokens=8)[0][n_prompt:]
            assert found == free[: free.index(end) + 1]


def without_end(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)


def _likelihood(model: PreTrainedModel, ids: list[int]) -> float:
    ids_BT = torch.tensor([ids])
    with torch.inference_mode():
        return -float(model.eval()(ids_BT, labels=ids_BT).loss)
