"""A typer group that imports a verb's module only when the verb is called."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


def with_dashes(name: str) -> str:
    """How both commands spell a flag. They take underscores for dashes, as vLLM's parser and Hugging Face's do."""
    return name.replace("_", "-")


class VerbGroup(TyperGroup):
    """Lists verbs out of a table; whatever needs only their names imports none of them.

    A subclass gives the table, `verbs`: name -> what the verb does, one line for the help. `function_of` has to find
    every name that stands in it.
    """

    verbs: ClassVar[Mapping[str, str]]

    def __init__(self, **attributes: Any) -> None:
        listed = [TyperCommand(name, help=line, rich_markup_mode=None) for name, line in self.verbs.items()]
        # verbs inherit it
        settings = {**(attributes.get("context_settings") or {}), "token_normalize_func": with_dashes}
        super().__init__(**{**attributes, "commands": listed, "context_settings": settings})

    @classmethod
    @abstractmethod
    def function_of(cls, name: str) -> Callable[..., int | None]:
        """Imports the verb: a function whose parameters are its flags and whose docstring is the rest of its help."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed if name is None else self._command(name), rest

    def _command(self, name: str) -> Any:
        function = self.function_of(name)
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name, help=f"{self.verbs[name]}\n\n{function.__doc__ or ''}")(function)
        return get_command(app)
