"""How long a text a model can read."""

from transformers import PreTrainedModel

from splitlearn.errors import UnsupportedModel
from splitlearn.model.context import context_length
from splitlearn.model.layout import inspect_model


def context_of(model: PreTrainedModel) -> int | None:
    """How many positions a model has, whatever its config calls them; None if it has no limit."""
    try:
        layout = inspect_model(model)
    except UnsupportedModel:
        # a model that cannot be cut has positions too
        layout = None
    return context_length(model, layout)
