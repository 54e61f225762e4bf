"""What training needs of a model: the form of a causal language model of transformers."""

from typing import Final

from cleangpt.errors import ModelFormError

_NEEDED: Final = ("config", "get_input_embeddings", "get_output_embeddings")


def check_form(model: object) -> None:
    """Raises ModelFormError if the model is not in Hugging Face's form, such as a plain nn.Module."""
    lacking = [name for name in _NEEDED if not hasattr(model, name)]
    if lacking:
        raise ModelFormError(
            f"{type(model).__name__} has no {', '.join(lacking)}: derive it from transformers' PreTrainedModel, or "
            "train it with an objective of your own, as Training(objective=...) or the loss of a trainer"
        )
