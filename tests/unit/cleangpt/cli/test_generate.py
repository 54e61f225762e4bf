from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.inference.generation import run_generation

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
