"""The sizes of a model, checked before any tensor is made."""

import subprocess
import sys

import pytest

from cleangpt.config import GPTConfig
from cleangpt.errors import BadConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_embd": 100, "n_head": 12}, "n_embd=100 and n_head=12"),
        ({"n_layer": 0}, "n_layer must be at least 1, found 0"),
        ({"block_size": -1}, "block_size"),
        ({"n_inner": 0}, "n_inner"),
        ({"dropout": 1.0}, "below 1, found 1.0"),
        ({"vocab_size": 10, "eos_token_id": 10}, "eos_token_id must be one of the 10 token ids, found 10"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_what_was_found(fields: dict[str, int], message: str) -> None:
    with pytest.raises(BadConfigError, match=message):
        GPTConfig(**fields)  # type: ignore[arg-type]


def test_the_defaults_are_those_of_the_small_gpt2() -> None:
    config = GPTConfig()
    assert (config.n_layer, config.n_head, config.n_embd, config.block_size) == (12, 12, 768, 1024)


def test_a_config_tells_which_options_are_not_at_their_defaults() -> None:
    assert GPTConfig(n_layer=3).changed_options == ()
    config = GPTConfig(alibi=True, bias=True, output_projection=False)
    assert config.changed_options == ("alibi", "output_projection")


def test_a_config_needs_neither_torch_nor_transformers() -> None:
    asked = "import sys, cleangpt.config; print({'torch', 'transformers'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout == "set()\n"
