"""Models by name."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM, PreTrainedModel

from cleangpt.config import GPTConfig
from cleangpt.errors import ModelNameTakenError, ModelUnknownError
from cleangpt.model import MODEL_REGISTRY, FactoredConfig, SASPForCausalLM, VanillaConfig, get_model, register_model

SMALL = GPTConfig(model_type="SASP", block_size=8, vocab_size=20, n_layer=2, n_head=2, n_embd=8)


@pytest.fixture
def registry() -> Iterator[dict[str, object]]:
    """Put back afterwards."""
    before = dict(MODEL_REGISTRY)
    yield MODEL_REGISTRY
    MODEL_REGISTRY.clear()
    MODEL_REGISTRY.update(before)


def test_the_documented_call_gives_the_model_of_that_name() -> None:
    assert isinstance(get_model(SMALL.model_type, config=SMALL), SASPForCausalLM)


def test_the_four_documented_names_are_there() -> None:
    assert {"Vanilla", "SASP", "Factored", "FactoredALiBi"} <= MODEL_REGISTRY.keys()


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelUnknownError, match=r"'Vanila'; choose one of Factored, FactoredALiBi, SASP, Vanilla"):
        get_model("Vanila", config=SMALL)


def test_factored_alibi_is_factored_with_alibi() -> None:
    model = get_model("FactoredALiBi", config=SMALL)
    assert model.config.model_type == "cleangpt_factored"
    assert model.config.alibi
    assert not [name for name, _ in model.named_parameters() if "embed_positions" in name]


def test_a_model_of_ones_own_is_made_by_its_name(registry: dict[str, object]) -> None:
    @register_model("Mine")
    def mine(config: GPTConfig) -> PreTrainedModel:
        return AutoModelForCausalLM.from_config(VanillaConfig(vocab_size=config.vocab_size, hidden_size=36))

    assert get_model("Mine", config=SMALL).config.hidden_size == 36


def test_a_name_that_is_taken_is_refused(registry: dict[str, object]) -> None:
    with pytest.raises(ModelNameTakenError, match="'SASP'"):
        register_model("SASP")(lambda config: get_model("Vanilla", config))


def test_the_sizes_are_those_that_were_asked_for() -> None:
    config = get_model("Vanilla", config=SMALL).config
    assert (config.n_layer, config.n_head, config.n_embd, config.block_size) == (2, 2, 8, 8)


def test_a_config_of_heads_that_do_not_divide_the_width_is_refused() -> None:
    with pytest.raises(StrictDataclassError, match="multiple of num_attention_heads, found 10 and 3"):
        FactoredConfig(hidden_size=10, num_attention_heads=3)


def test_serving_a_model_imports_nothing_of_the_workshop_around_it() -> None:
    asked = "import sys, cleangpt.model; print(*[name for name in sys.modules if name.startswith('cleangpt.')])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    rooms = {name.split(".")[1] for name in done.stdout.split()}
    assert rooms == {"config", "errors", "model"}
