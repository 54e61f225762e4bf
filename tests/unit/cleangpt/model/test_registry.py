"""Models by name."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM, PreTrainedModel

from cleangpt.config import COMMON_OPTIONS, OPTIONS, GPTConfig
from cleangpt.errors import ModelNameTakenError, ModelOptionError, ModelUnknownError
from cleangpt.model import MODEL_REGISTRY, FactoredConfig, SASPForCausalLM, VanillaConfig, get_model, register_model
from cleangpt.model.registry import check_options, options_of

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


@pytest.mark.parametrize(
    ("option", "having"),
    [
        ("skip_connections", "SASP"),
        ("value_projection", "SASP"),
        ("output_projection", "SASP"),
        ("head_mixing", "Factored, FactoredALiBi"),
    ],
)
def test_an_option_reaches_the_models_that_have_it_and_the_others_refuse_it_with_their_names(
    option: str, having: str
) -> None:
    changed = replace(SMALL, **{option: not getattr(SMALL, option)})
    for name in ("Vanilla", "SASP", "Factored", "FactoredALiBi"):
        if name in having.split(", "):
            assert getattr(get_model(name, changed).config, option) == getattr(changed, option)
        else:
            with pytest.raises(ModelOptionError, match=f"^{option} is an option of {having}, and {name} does not have"):
                get_model(name, changed)


def test_all_models_have_the_common_options() -> None:
    config = replace(SMALL, dropout=0.1, bias=False, alibi=True)
    for name in ("Vanilla", "SASP", "Factored", "FactoredALiBi"):
        made = get_model(name, config).config
        assert (made.dropout, made.bias, made.alibi) == (0.1, False, True)
        assert set(COMMON_OPTIONS) <= set(options_of(name)) <= set(OPTIONS)


def test_a_model_of_ones_own_has_the_options_that_it_names(registry: dict[str, object]) -> None:
    @register_model("Mine", options=["skip_connections"])
    def mine(config: GPTConfig) -> PreTrainedModel:
        return get_model("SASP", config)

    assert get_model("Mine", replace(SMALL, skip_connections=True)).config.skip_connections
    with pytest.raises(
        ModelOptionError, match="alibi is an option of Factored, FactoredALiBi, SASP, Vanilla, and Mine"
    ):
        get_model("Mine", replace(SMALL, alibi=True))


def test_what_is_no_model_of_the_registry_has_no_option() -> None:
    check_options("qwen3", [])
    with pytest.raises(ModelOptionError, match=r"dropout is an option of .*, and qwen3 does not have it"):
        check_options("qwen3", ["dropout"])


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
