"""The models' configs in Hugging Face's form, as stored in config.json."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from cleangpt.config import OWN_OPTIONS
from splitlearn.hf.cache import CACHE_NAMES


@strict
class CleanGPTConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers has no types
    """The fields that all three architectures share. GPTConfig's names for the sizes work as aliases.

    ALiBi is a field and not a model type: it changes how positions are represented, but no layer.
    """

    keys_to_ignore_at_inference = list(CACHE_NAMES)  # noqa: RUF012  # transformers' own form
    attribute_map = {  # noqa: RUF012
        "block_size": "max_position_embeddings",
        "n_embd": "hidden_size",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "n_layer": "num_hidden_layers",
    }

    vocab_size: int = 50257
    hidden_size: int = 768
    intermediate_size: int | None = None
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 1024
    dropout: float | int = 0.0
    bias: bool = True
    alibi: bool = False
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True

    def validate_architecture(self) -> None:
        """Checks the sizes; transformers calls it.

        Raises:
            ValueError: the number of heads does not divide the hidden size.
        """
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, found {self.hidden_size} and "
                f"{self.num_attention_heads}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as they are saved: an architecture's own options only where they are not at their defaults.

        A model without them therefore has the config that it had before there were such options, and so have the
        digests in checkpoints that are made of it.
        """
        saved: dict[str, Any] = super().to_dict()
        defaults = {name: getattr(type(self), name, None) for name in OWN_OPTIONS}
        return {name: value for name, value in saved.items() if name not in defaults or value != defaults[name]}


@strict
class VanillaConfig(CleanGPTConfig):
    """See `cleangpt.model.vanilla`."""

    model_type = "cleangpt_vanilla"


@strict
class SASPConfig(CleanGPTConfig):
    """See `cleangpt.model.sasp`."""

    model_type = "cleangpt_sasp"

    skip_connections: bool = False
    value_projection: bool = False
    output_projection: bool = True


@strict
class FactoredConfig(CleanGPTConfig):
    """See `cleangpt.model.factored`."""

    model_type = "cleangpt_factored"
    n_streams = 2
    """How many hidden states a layer passes on side by side; a cut sends all of them."""

    head_mixing: bool = True
