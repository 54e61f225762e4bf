"""What generation takes for a model's context is what the model reads, for every type of model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from architectures.small_configs import small_config
from cleangpt.model.context import context_of

# longer than the positions of any small model
LONG = 300
ENDLESS = {
    "bloom", "cpmant", "falcon_mamba", "granitemoehybrid", "inkling2_text", "inkling_text", "jamba", "kimi_linear",
    "mamba", "mamba2", "nemotron_h", "recurrent_gemma", "rwkv", "xlnet", "zamba2",
}  # fmt: skip
# its first row is for padding, which nothing in it says
ONE_TOO_MANY = {"prophetnet"}


def small_model(model_type: str) -> PreTrainedModel | None:
    """None where the small config makes none that runs."""
    torch.manual_seed(0)
    try:
        model = AutoModelForCausalLM.from_config(small_config(model_type)).eval()
        read(model, 8)
    except (AttributeError, ImportError, RuntimeError, ValueError):
        return None
    return model


@torch.inference_mode()
def read(model: PreTrainedModel, n_ids: int) -> None:
    model(input_ids=torch.arange(n_ids)[None] % 100 + 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_causal_model_reads_a_text_as_long_as_its_context() -> None:
    endless, too_long = set(), {}
    for model_type in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        if (model := small_model(model_type)) is None:
            continue
        context = context_of(model)
        if context is None:
            endless.add(model_type)
        try:
            read(model, context or LONG)
        except (IndexError, RuntimeError) as error:
            too_long[model_type] = (context, str(error))
    assert too_long.keys() == ONE_TOO_MANY, too_long
    assert endless == ENDLESS
