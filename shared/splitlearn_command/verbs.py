"""A typer group that imports a verb's module only when the verb is called."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import cleandoc
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from splitlearn_command.extras import needing


@dataclass(frozen=True)
class Verb:
    """A verb's line in the help, and the extra that installs what it imports beyond the base.

    Commas separate several extras.
    """

    line: str
    extra: str | None = None


def with_dashes(name: str) -> str:
    """The spelling of a flag. Underscores are accepted for dashes, as vLLM's and Hugging Face's parsers do."""
    return name.replace("_", "-")


class VerbGroup(TyperGroup):
    """Lists the verbs of a table without importing them.

    A subclass defines the table `verbs`, keyed by name. `function_of` must find every name in it.
    """

    verbs: ClassVar[Mapping[str, Verb]]

    def __init__(self, **attributes: Any) -> None:
        listed = [TyperCommand(name, help=verb.line, rich_markup_mode=None) for name, verb in self.verbs.items()]
        # verbs inherit these two
        inherited = {"token_normalize_func": with_dashes, "help_option_names": ["-h", "--help"]}
        settings = {**(attributes.get("context_settings") or {}), **inherited}
        super().__init__(**{**attributes, "commands": listed, "context_settings": settings})

    @classmethod
    @abstractmethod
    def function_of(cls, name: str) -> Callable[..., int | None]:
        """Imports a verb: its function's parameters are the flags, its docstring is the rest of the help."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed if name is None else self._command(name), rest

    def _command(self, name: str) -> Any:
        verb = self.verbs[name]
        with needing(verb.extra):
            function = self.function_of(name)
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        told = cleandoc(function.__doc__ or "")
        app.command(name, help=f"{verb.line}\n\n{told}")(needing(verb.extra)(function))
        return get_command(app)
