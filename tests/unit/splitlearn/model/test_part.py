from typing import Any

import pytest

from llm_sepweight import PartSpec
from splitlearn.errors import BadPlan
from splitlearn.model.part import cut
from support.tiny_models import tiny_config


def test_the_context_is_what_the_config_says() -> None:
    assert cut(tiny_config("llama"), PartSpec.parse("1-2")).context_length == 512
    assert cut(tiny_config("bloom"), PartSpec.parse("1-2")).context_length is None


@pytest.mark.parametrize(
    ("model_type", "rope"),
    [
        ("phi3", {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}),
        ("llama", {"rope_type": "dynamic", "factor": 4.0}),
    ],
)
def test_the_context_ends_where_the_rotary_table_would_change(model_type: str, rope: dict[str, Any]) -> None:
    length = {"original_max_position_embeddings": 128}
    config = tiny_config(model_type, rope_parameters={"rope_theta": 10000.0, **length, **rope}, **length)
    assert cut(config, PartSpec.parse("1-2")).context_length == 128


@pytest.mark.parametrize("spec", ["b", "e", "0-1 3-4"])
def test_a_part_is_one_range_of_layers(spec: str) -> None:
    with pytest.raises(BadPlan, match="one contiguous range"):
        cut(tiny_config("llama"), PartSpec.parse(spec))
