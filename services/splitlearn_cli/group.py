"""The verbs, and how each is found."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from splitlearn_cli.flags import from_settings
from splitlearn_command.verbs import Verb, VerbGroup

VERBS: Final = {
    "convert": Verb("Convert a Hugging Face checkpoint to a directory of parts."),
    "quantize": Verb("Round a directory of parts to 4 bits, after texts.", "train"),
    "inspect": Verb("Show the contents of a directory of parts, or verify it."),
    "plan": Verb("Propose which layers each worker of a chain serves."),
    "privacy-report": Verb("Measure how much a trunk worker can read of the text.", "trunk,train"),
    "cache": Verb("List or remove the models that were fetched by name."),
    "certs": Verb("Make a local CA, and certificates for workers and clients.", "trunk"),
    "trunk": Verb("Serve the middle layers over gRPC.", "trunk"),
    "client": Verb("Serve the OpenAI API and the chat page; needs a trunk.", "client"),
    "up": Verb("Start a trunk and a client here, and answer one prompt.", "client"),
    "demo": Verb("Start both with the demo model: no download, no arguments.", "demo"),
    "generate": Verb("Send a prompt to a running client, and stream the answer."),
    "chat": Verb("Talk with the model of a running client."),
    "models": Verb("List the models of a running client."),
    "info": Verb("Show what a trunk serves.", "trunk"),
    "doctor": Verb("Show whether the fast path is taken here, and why not."),
    "bench": Verb("Measure an OpenAI endpoint under load."),
}


def module_of(name: str) -> Any:
    """Imports a verb's module."""
    return import_module(f"splitlearn_cli.verbs.{name.replace('-', '_')}")


class Verbs(VerbGroup):
    """Each verb is a module: `Settings` are its flags, `run` runs it, and `run`'s docstring is the rest of its help."""

    verbs = VERBS

    @classmethod
    def function_of(cls, name: str) -> Callable[..., int | None]:
        verb = module_of(name)
        function = from_settings(verb.Settings, verb.run)
        function.__doc__ = verb.run.__doc__
        return function
