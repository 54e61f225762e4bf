"""The list of verbs, and where each of them is."""

from collections.abc import Callable
from importlib import import_module
from typing import Final

from command_line.verbs import VerbGroup
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


class Verbs(VerbGroup):
    """Each verb is a module: its `Settings` give the flags, its `run` the rest of the help and the deed."""

    verbs = VERBS

    @classmethod
    def function_of(cls, name: str) -> Callable[..., int | None]:
        verb = import_module(f"splitlearn_cli.verbs.{name}")
        function = from_settings(verb.Settings, verb.run)
        function.__doc__ = verb.run.__doc__
        return function
