"""Models of which only the ends are others."""

from transformers import PreTrainedModel

from support.tiny_models import random_model, tiny_config

_KEPT = range(2, 4)
LAYERS = f"{_KEPT.start}-{_KEPT.stop}"
"""Those that are the same, of five."""


def with_other_ends(model: PreTrainedModel) -> PreTrainedModel:
    """A tiny llama with the layers `LAYERS` of `model`, and with embeddings, bottom, top and head of its own."""
    other = random_model(tiny_config("llama"), seed=1)
    kept = tuple(f"model.layers.{layer}." for layer in _KEPT)
    other.load_state_dict({n: value for n, value in model.state_dict().items() if n.startswith(kept)}, strict=False)
    return other
