"""Texts that become longer than the model's context."""

import warnings
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.config import GPTConfig
from cleangpt.errors import GenerationSettingsError, PromptError
from cleangpt.inference.generation import ContextSlides, continuations, run_generation
from cleangpt.inference.sampling import Sampling
from cleangpt.model import get_model
from cleangpt.tokenizers import create_tokenizer
from support.small_gpts import shaken

LETTERS = "abcdefgh"


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=create_tokenizer("character", texts=[LETTERS]).fast.backend_tokenizer
    )


def small(alibi: bool = False, block_size: int = 16) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"block_size": block_size, "vocab_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 16}
    return shaken(get_model("Vanilla", config=GPTConfig(**sizes, alibi=alibi)))


def expected(model: PreTrainedModel, ids: list[int], n: int, context: int = 16) -> list[int]:
    """By hand: the likeliest id after the window, which keeps its last half when it is full."""
    found, window = list(ids), ids if len(ids) < context else ids[-context // 2 :]
    with torch.inference_mode():
        for _ in range(n):
            if len(window) == context:
                window = window[-context // 2 :]
            found.append(int(model.eval()(torch.tensor([window])).logits[0, -1].argmax()))
            window = [*window, found[-1]]
    return found


@pytest.mark.parametrize("n_prompt", [3, 15, 16, 17, 40])
def test_a_text_goes_on_behind_the_last_position(tokenizer: PreTrainedTokenizerFast, n_prompt: int) -> None:
    model, prompt = small(), (LETTERS * 5)[:n_prompt]
    with pytest.warns(ContextSlides, match="longer than the model's 16 positions") as said:
        found, text = run_generation(model, tokenizer, prompt, max_new_tokens=40)
    assert found == expected(model, tokenizer.encode(prompt), 40)
    assert text.startswith(prompt)
    # once, though it slides several times
    assert len(said) == 1
    assert ("of a prompt that long" in str(said[0].message)) == (n_prompt >= 16)


def test_what_comes_before_the_last_position_is_the_same_with_and_without_sliding(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ending, _ = run_generation(small(), tokenizer, "abc", max_new_tokens=40, slide=False)
    with pytest.warns(ContextSlides):
        sliding, _ = run_generation(small(), tokenizer, "abc", max_new_tokens=40)
    assert (len(ending), len(sliding)) == (16, 43)
    assert sliding[:16] == ending


def test_a_longer_text_starts_with_the_shorter_one(tokenizer: PreTrainedTokenizerFast) -> None:
    found = [
        continuations(small(), tokenizer, ["abc"], None, Sampling(n, temperature=1.5, seed=2))[0].ids for n in (21, 40)
    ]
    assert found[1][: len(found[0])] == found[0]


def test_a_seed_repeats_a_text_that_slides(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second, other = (
        continuations(small(), tokenizer, ["abc"], None, Sampling(40, temperature=2.0, seed=seed))[0].ids
        for seed in (1, 1, 2)
    )
    assert first == second != other
    # not the same draw in every window
    assert first[16:24] != first[24:32]


def test_a_text_that_fits_does_not_slide_and_nothing_is_said(tokenizer: PreTrainedTokenizerFast) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ContextSlides)
        found, _ = run_generation(small(), tokenizer, "abc", max_new_tokens=13)
        assert len(found) == 16
        endless, _ = run_generation(small(alibi=True), tokenizer, "abc", max_new_tokens=40)
    assert len(endless) == 43


def test_a_streamer_gets_the_prompt_once_and_every_id_once(tokenizer: PreTrainedTokenizerFast) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def put(self, value: torch.Tensor) -> None:
            self.heard.append(value.tolist())

        def end(self) -> None:
            self.heard.append("end")

    for prompt in ("abc", LETTERS * 3):
        recorder = Recorder()
        [found] = continuations(small(), tokenizer, [prompt], None, Sampling(40), streamer=recorder)
        n_prompt = len(prompt)
        assert recorder.heard == [[found.ids[:n_prompt]], *([each] for each in found.ids[n_prompt:]), "end"]


def test_beams_do_not_slide(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(
        GenerationSettingsError, match=r"2 beams .* leaves 13 of the model's 16 positions, and 14 tokens"
    ):
        run_generation(small(), tokenizer, "abc", max_new_tokens=14, num_beams=2)
    fitting, _ = run_generation(small(), tokenizer, "abc", max_new_tokens=13, num_beams=2)
    ending, _ = run_generation(small(), tokenizer, "abc", max_new_tokens=40, num_beams=2, slide=False)
    assert fitting == ending


def test_of_a_single_position_no_half_can_be_kept(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(PromptError, match="only 1 positions"):
        run_generation(small(block_size=1), tokenizer, "a")
    with pytest.warns(ContextSlides):
        found, _ = run_generation(small(block_size=2), tokenizer, "a", max_new_tokens=5)
    assert len(found) == 6
