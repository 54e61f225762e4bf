"""The list of verbs, and a typer group that imports a verb's module only when it is called."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

VERBS: Final = {
    "train": "Train a model, and write it with its tokenizer in Hugging Face's form.",
    "distill": "Fit a small model to a large one, or a shadow to a trunk.",
    "evaluate": "Measure a model on a text, alone or beside its teacher.",
    "generate": "Go on with a prompt.",
    "tokens": "Count what a tokenizer makes of a text, and prune its vocabulary.",
    "accuracy": "Ask a model every question about Python that it was trained on.",
}


@dataclass
class Invocation:
    """What the global flags of one run said; the entry point owns it, because it outlives the run's context."""

    debug: bool = False


class VerbGroup(TyperGroup):
    """Lists verbs out of the table; whatever needs only their names imports none of them."""

    def __init__(self, **attributes: Any) -> None:
        listed = [TyperCommand(name, help=line, rich_markup_mode=None) for name, line in VERBS.items()]
        super().__init__(**{**attributes, "commands": listed})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed if name is None else load_verb(name), rest


def load_verb(name: str) -> Any:
    """The command of a verb: the function of its own name in its module; its docstring is the rest of the help."""
    function = getattr(import_module(f"cleangpt.cli.{name}"), name)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, help=f"{VERBS[name]}\n\n{function.__doc__ or ''}")(function)
    return get_command(app)
