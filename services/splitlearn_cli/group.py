"""The list of verbs, and where each of them is."""

from collections.abc import Callable
from importlib import import_module
from typing import Final

from command_line.verbs import Verb, VerbGroup
from splitlearn_cli.flags import from_settings

VERBS: Final = {
    "convert": Verb("Turn a Hugging Face checkpoint into a directory of parts."),
    "inspect": Verb("Show what a directory of parts holds, or verify it."),
    "trunk": Verb("Serve the middle layers over gRPC.", "trunk"),
    "client": Verb("Serve the OpenAI API and the chat page; needs a trunk.", "client"),
    "up": Verb("Start a trunk and a client here, and ask one question.", "client"),
    "demo": Verb("Start both with the model that ships: no download, no arguments.", "demo"),
    "generate": Verb("Ask a running client, and stream the answer."),
    "info": Verb("Ask a trunk what it serves.", "trunk"),
    "doctor": Verb("Say whether the fast path is taken here, and why not."),
    "bench": Verb("Measure an OpenAI endpoint under load."),
}


class Verbs(VerbGroup):
    """Each verb is a module: its `Settings` give the flags, its `run` the rest of the help and the deed."""

    verbs = VERBS

    @classmethod
    def function_of(cls, name: str) -> Callable[..., int | None]:
        verb = import_module(f"splitlearn_cli.verbs.{name}")
        function = from_settings(verb.Settings, verb.run)
        function.__doc__ = verb.run.__doc__
        return function
