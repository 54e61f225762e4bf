from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.inference.generation import continuations, run_generation
from cleangpt.inference.sampling import Sampling

Run = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    with torch.no_grad():
        tiny_model.get_input_embeddings().weight.mul_(20)
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_text_is_written_with_its_prompt(
    cleangpt: Run, folder: Path, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    ran = cleangpt("generate", folder, "--prompt", "Turn to", "--max-tokens", 6)
    _, text = run_generation(tiny_model, tiny_tokenizer, "Turn to", max_new_tokens=6)
    assert (ran.code, ran.out.rstrip("\n")) == (0, text.rstrip("\n"))


def test_beams_write_all_at_the_end(cleangpt: Run, folder: Path) -> None:
    ran = cleangpt("generate", folder, "--prompt", "Turn to", "--max-tokens", 4, "--num-beams", 2)
    assert ran.code == 0
    assert ran.out.startswith("Turn to")


def test_a_seed_repeats_a_draw(cleangpt: Run, folder: Path) -> None:
    words = ["generate", folder, "--prompt", "Turn to", "--temperature", 2, "--top-k", 50, "--seed"]
    assert cleangpt(*words, 1).out == cleangpt(*words, 1).out != cleangpt(*words, 2).out


def test_a_question_goes_through_the_chat_template_and_only_the_answer_is_written(
    cleangpt: Run, folder: Path, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    ran = cleangpt("generate", folder, "--prompt", "left", "--chat", "--max-tokens", 4)
    asked = tiny_tokenizer.apply_chat_template(
        [{"role": "user", "content": "left"}], tokenize=False, add_generation_prompt=True
    )
    ids, _ = run_generation(tiny_model, tiny_tokenizer, asked, max_new_tokens=4)
    answer = tiny_tokenizer.decode(ids[len(tiny_tokenizer.encode(asked)) :], skip_special_tokens=True)
    assert (ran.code, ran.out.rstrip("\n")) == (0, answer.rstrip("\n"))


def test_a_rule_without_a_temperature_draws(cleangpt: Run, folder: Path, tiny_model: PreTrainedModel) -> None:
    with torch.no_grad():
        # so that the likeliest token is hardly more likely than others
        tiny_model.get_input_embeddings().weight.mul_(0.05)
    tiny_model.save_pretrained(folder)
    words = ["generate", folder, "--prompt", "Turn to"]
    drawn = cleangpt(*words, "--top-k", 50, "--seed", 1)
    assert drawn.out == cleangpt(*words, "--top-k", 50, "--temperature", 1, "--seed", 1).out
    assert drawn.out != cleangpt(*words).out == cleangpt(*words, "--temperature", 0).out
    refused = cleangpt(*words, "--top-k", 50, "--temperature", 0)
    assert (refused.code, "top_k cannot change" in refused.err) == (1, True)


def test_a_text_that_slides_is_whole_and_said_to_on_stderr(
    cleangpt: Run, folder: Path, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tiny_model.generation_config.eos_token_id = 299
    tiny_model.generation_config.save_pretrained(folder)
    words = ["generate", folder, "--prompt", "Turn to", "--max-tokens", 90]
    ran = cleangpt(*words)
    assert ran.code == 0
    assert ran.err.splitlines()[-1].startswith("note: the text became longer than the model's 64 positions")
    [found] = continuations(tiny_model, tiny_tokenizer, ["Turn to"], None, Sampling(90))
    assert ran.out.rstrip("\n") == found.text.rstrip("\n")
    ending = cleangpt(*words, "--no-slide")
    assert "note:" not in ending.err
    assert len(ending.out) < len(ran.out)
    assert ran.out.startswith(ending.out.rstrip("\n"))
    refused = cleangpt("generate", folder, "--prompt", "left " * 64, "--no-slide")
    assert (refused.code, "only 64 positions" in refused.err) == (1, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--top-p", 2], "top_p has to be"), (["--temperature", -1], "temperature has to be")],
)
def test_wrong_values_end_in_one_line_before_anything_is_loaded(
    cleangpt: Run, tmp_path: Path, flags: list[object], message: str
) -> None:
    ran = cleangpt("generate", tmp_path / "nowhere", "--prompt", "x", *flags)
    assert ran.code == 1
    assert message in ran.err
    assert ran.err.count("\n") == 1


def test_a_folder_without_a_model_is_said_so(cleangpt: Run, tmp_path: Path) -> None:
    assert "config.json" in cleangpt("generate", tmp_path, "--prompt", "x").err
