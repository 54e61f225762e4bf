import json
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn_client.errors import BadModelFiles
from splitlearn_client.generation_config import FILE, GenerationDefaults
from splitlearn_client.sampling import Sampler, SamplingSettings


def read(folder: Path, fields: dict[str, Any] | str, source: Any = "auto") -> GenerationDefaults:
    (folder / FILE).write_text(fields if isinstance(fields, str) else json.dumps(fields))
    return GenerationDefaults.read(folder, source)


ADVISED = {
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": 20,
    "min_p": 0.05,
    "repetition_penalty": 1.05,
    "max_new_tokens": 2048,
}


def test_what_a_model_s_authors_advise_is_the_default(tmp_path: Path) -> None:
    found = read(tmp_path, {**ADVISED, "eos_token_id": [1, 2], "transformers_version": "5"})
    assert found.sampling == SamplingSettings(
        temperature=0.6, top_p=0.95, top_k=20, min_p=0.05, repetition_penalty=1.05
    )
    assert found.max_tokens == 2048


def test_it_can_be_ignored(tmp_path: Path) -> None:
    assert read(tmp_path, ADVISED, "vllm") == GenerationDefaults()


def test_without_a_file_or_a_value_openai_s_stand(tmp_path: Path) -> None:
    assert GenerationDefaults.read(tmp_path, "auto") == GenerationDefaults()
    assert read(tmp_path, dict.fromkeys(ADVISED)) == GenerationDefaults()
    assert read(tmp_path, {"eos_token_id": 2}) == GenerationDefaults()


def test_whether_to_sample_is_not_the_file_s_to_say(tmp_path: Path) -> None:
    # as in vLLM: many files say nothing, which is "do not sample" to transformers
    assert read(tmp_path, {"do_sample": False, "temperature": 0.7}).sampling.temperature == 0.7


def test_whole_numbers_can_be_sampled_with(tmp_path: Path) -> None:
    whole = {"temperature": 2, "top_p": 1, "min_p": 1, "repetition_penalty": 2, "top_k": 3}
    logits_V = torch.zeros(8)
    assert Sampler(read(tmp_path, whole).sampling).choose(logits_V, [1]).token < 8


def test_a_top_k_of_minus_one_is_none(tmp_path: Path) -> None:
    assert read(tmp_path, {"top_k": -1}).sampling.top_k == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", "0.7"),
        ("temperature", True),
        ("temperature", [0.7]),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -2),
        ("top_k", 2.5),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("max_new_tokens", 0),
    ],
)
def test_a_value_that_cannot_be_sampled_with_is_an_error_at_start(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(BadModelFiles, match=rf"{FILE}: {name} is .*--generation-config vllm"):
        read(tmp_path, {name: value})


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "repetition_penalty"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "1" + "0" * 400])
def test_what_json_takes_for_a_number_may_be_none(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(BadModelFiles, match=name):
        read(tmp_path, f'{{"{name}": {value}}}')


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"'])
def test_half_a_file_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadModelFiles, match=FILE):
        read(tmp_path, text)
