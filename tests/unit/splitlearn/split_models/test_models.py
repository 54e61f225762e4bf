import pytest

from splitlearn import models
from splitlearn.errors import UnsupportedModel
from splitlearn.split_models import split_class
from splitlearn.split_models.registry import PARTS, ModelRegistry


def test_the_documented_architectures_have_their_classes() -> None:
    for model_type, name in (("gpt2", "GPT2"), ("gemma", "Gemma"), ("qwen2", "Qwen2")):
        for part in PARTS:
            assert split_class(model_type, part) is getattr(models, f"{name}{part.capitalize()}Model")


def test_other_architectures_get_theirs_when_asked_for() -> None:
    made = split_class("qwen3_moe", "trunk")
    assert made.__name__ == "Qwen3MoeTrunkModel"
    assert issubclass(made, models.CausalLMTrunkModel)
    assert split_class("qwen3_moe", "trunk") is made
    assert ModelRegistry.find("qwen3_moe", "trunk") is made


def test_a_type_that_nobody_knows_is_refused_with_what_to_register() -> None:
    with pytest.raises(UnsupportedModel, match=r"register one with @ModelRegistry\.register\('newest', 'top'\)"):
        split_class("newest", "top")
