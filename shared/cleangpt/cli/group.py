"""The verbs, and where their functions are."""

from collections.abc import Callable
from importlib import import_module
from typing import Final

from splitlearn_command.verbs import Verb, VerbGroup

VERBS: Final = {
    "train": Verb("Train a model, and write it in Hugging Face's form.", "train"),
    "distill": Verb("Fit a small model to a large one, or a shadow to a trunk.", "train,trunk"),
    "evaluate": Verb("Measure a model on a text, alone or beside its teacher.", "train,trunk"),
    "generate": Verb("Go on with a prompt.", "train"),
    "tokens": Verb("Count what a tokenizer makes of a text; prune its vocabulary.", "train"),
    "accuracy": Verb("Ask a model every question about Python that it was trained on.", "train"),
}


class Verbs(VerbGroup):
    """The verbs; each is a function in a module, and both have the verb's name."""

    verbs = VERBS

    @classmethod
    def function_of(cls, name: str) -> Callable[..., int | None]:
        function: Callable[..., int | None] = getattr(import_module(f"cleangpt.cli.{name}"), name)
        return function
