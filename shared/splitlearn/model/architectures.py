"""Architectures that installed packages bring to transformers, found by entry point.

A package names each of its model types in the group `splitlearn.architectures`, with the module whose import registers
it with transformers' Auto classes. Only the module of a model type that is asked for is imported.
"""

from importlib.metadata import entry_points

from transformers import CONFIG_MAPPING

from splitlearn.errors import UnsupportedModel

GROUP = "splitlearn.architectures"


def is_known(model_type: str) -> bool:
    """Whether transformers has this model type, by itself or from the package that brings it.

    Raises:
        UnsupportedModel: a package says that it brings it, but cannot be imported.
    """
    if model_type in CONFIG_MAPPING:
        return True
    for brought in entry_points(group=GROUP, name=model_type):
        try:
            brought.load()
        except ImportError as error:
            raise UnsupportedModel(
                f"model type {model_type!r} comes with {brought.value}, which cannot be imported here: {error}; "
                "install it where parts of such a model are run"
            ) from error
    return model_type in CONFIG_MAPPING
