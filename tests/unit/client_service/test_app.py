from pathlib import Path

import pytest

from client_service.app import end_tokens
from client_service.tokenizer import TextCodec
from support.tiny_models import tiny_config, tiny_tokenizer


@pytest.mark.parametrize(
    ("of_config", "expected"), [(2, {2}), (7, {2, 7}), ([7, 9], {2, 7, 9}), (None, {2}), (0, {0, 2})]
)
def test_an_answer_ends_at_the_config_s_end_tokens_and_at_the_tokenizer_s_own(
    tmp_path: Path, of_config: int | list[int] | None, expected: set[int]
) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    config = tiny_config("llama", eos_token_id=of_config)
    assert end_tokens(config, TextCodec(tmp_path, config)) == expected
