"""The list of verbs, and a typer group that imports a verb's module only when it is called."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from splitlearn_cli.flags import from_settings

VERBS: Final = {
    "convert": "Turn a Hugging Face checkpoint into a directory of parts.",
    "inspect": "Show what a directory of parts holds, or verify it.",
    "trunk": "Serve the middle layers over gRPC.",
    "client": "Serve the OpenAI API and the chat page; needs a trunk.",
    "up": "Start a trunk and a client here, and ask one question.",
    "generate": "Ask a running client, and stream the answer.",
    "info": "Ask a trunk what it serves.",
    "bench": "Measure an OpenAI endpoint under load.",
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
    """The command of a verb: its module's `Settings` give the flags, its `run` the help and the deed."""
    verb = import_module(f"splitlearn_cli.verbs.{name}")
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, help=f"{VERBS[name]}\n\n{verb.run.__doc__ or ''}")(from_settings(verb.Settings, verb.run))
    return get_command(app)
