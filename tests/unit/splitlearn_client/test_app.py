import json
from pathlib import Path

import pytest

from splitlearn_client.app import end_tokens
from splitlearn_client.errors import BadModelFiles
from splitlearn_client.tokenizer import ChatTokenizer
from support.tiny_models import tiny_config, tiny_tokenizer


@pytest.mark.parametrize(
    ("of_config", "of_generation", "expected"),
    [
        (2, None, {2}),
        (7, None, {2, 7}),
        ([7, 9], None, {2, 7, 9}),
        (None, None, {2}),
        (0, None, {0, 2}),
        (2, [7, 9], {2, 7, 9}),
        (None, 5, {2, 5}),
    ],
)
def test_an_answer_ends_at_the_end_tokens_of_both_configs_and_of_the_tokenizer(
    tmp_path: Path, of_config: int | list[int] | None, of_generation: int | list[int] | None, expected: set[int]
) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    if of_generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": of_generation}))
    config = tiny_config("llama", eos_token_id=of_config)
    assert end_tokens(tmp_path, config, ChatTokenizer(tmp_path, config).end_token) == expected


@pytest.mark.parametrize("value", ["</s>", {"id": 2}, [2, "</s>"], True, 2.5])
def test_an_end_token_that_is_no_id_is_an_error_at_start(tmp_path: Path, value: object) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    config = tiny_config("llama")
    with pytest.raises(BadModelFiles, match="eos_token_id"):
        end_tokens(tmp_path, config, ChatTokenizer(tmp_path, config).end_token)
