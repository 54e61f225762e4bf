"""Command line flags from a pydantic-settings class, so that every setting is declared once.

typer parses the command line; the settings class reads the environment, converts and validates.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode

from splitlearn_cli.errors import BadUsage

S = TypeVar("S", bound=BaseSettings)

_SECRETS = re.compile(r"#[^,\s]*")


@dataclass(frozen=True)
class Flag:
    """Makes a field without a default a flag instead of a positional argument: `Annotated[Path, Flag("-o")]`.

    A short spelling is an alternative to the field's name, a long one replaces it.
    """

    spelling: str


@dataclass(frozen=True)
class Positional:
    """Makes a field with a default a positional argument, which may then be left out."""


def _words(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


Repeated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
"""A flag that may be given several times; its variable has the values with spaces between them."""


def read_by(parse: Callable[[str], object]) -> AfterValidator:
    """A validator for a text field: refuses what `parse` refuses, with the same reason."""

    def check(text: str | None) -> str | None:
        try:
            if text is not None:
                parse(text)
        except ValueError as error:
            raise PydanticCustomError("unreadable", "{reason}", {"reason": str(error)}) from error
        return text

    return AfterValidator(check)


def from_settings(settings_class: type[S], run: Callable[[S], int | None]) -> Callable[..., int | None]:
    """A function for typer that calls `run` with the settings.

    Fields without a default become positional arguments, all others flags. Each is also read from the environment; the
    command line takes precedence, and an empty variable counts as unset.

    Raises (when called):
        BadUsage: a value is missing or not allowed; the message names the flag and the variable.
    """

    def command(**given: Any) -> int | None:
        return run(settings_from(settings_class, given))

    command.__signature__ = inspect.Signature(parameters(settings_class))  # type: ignore[attr-defined]
    return command


def settings_from(settings_class: type[S], given: Mapping[str, Any]) -> S:
    """Settings from the command line (None: not given) and the environment. Raises BadUsage."""
    try:
        # typer gives an empty list for a flag that may be repeated and was not given
        return settings_class(
            _env_ignore_empty=True, **{name: value for name, value in given.items() if value not in (None, [])}
        )
    except ValidationError as error:
        complaints = [_complaint(settings_class, dict(detail)) for detail in error.errors()]
        raise BadUsage("; ".join(complaints)) from error


def parameters(settings_class: type[BaseSettings]) -> list[inspect.Parameter]:
    """One keyword parameter per field; its default is typer's description of the flag."""
    return [_parameter(settings_class, name, field) for name, field in settings_class.model_fields.items()]


def _parameter(settings_class: type[BaseSettings], name: str, field: FieldInfo) -> inspect.Parameter:
    info: Any
    help_text = f"{field.description} [{_origins(settings_class, name, field)}]"
    is_bool = field.annotation is bool
    if _is_positional(field):
        info = typer.Argument(None, metavar=name.upper(), help=help_text, show_default=False)
    elif is_bool:
        info = typer.Option(None, _switch(name, field), help=help_text, show_default=False)
    else:
        info = typer.Option(
            None,
            *_spellings(name, field),
            metavar=_metavar(field.annotation),
            help=help_text,
            show_default=False,
            autocompletion=_completing(_choices(field.annotation)),
        )
    kind: Any = bool if is_bool else list[str] if get_origin(field.annotation) is tuple else str
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=kind | None)


def _is_positional(field: FieldInfo) -> bool:
    marks = [type(mark) for mark in field.metadata]
    return Positional in marks or (field.is_required() and Flag not in marks)


def _spellings(name: str, field: FieldInfo) -> list[str]:
    """A flag's spellings; the long one is last."""
    marked = [mark.spelling for mark in field.metadata if isinstance(mark, Flag)]
    return marked if any(spelling.startswith("--") for spelling in marked) else [*marked, _flag(name)]


def _switch(name: str, field: FieldInfo) -> str:
    """A boolean flag's two spellings, as typer takes them."""
    spelling = _spellings(name, field)[-1]
    return f"{spelling}/--no-{spelling[2:]}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _variable(settings_class: type[BaseSettings], name: str) -> str:
    return f"{settings_class.model_config.get('env_prefix', '')}{name}".upper()


def _origins(settings_class: type[BaseSettings], name: str, field: FieldInfo) -> str:
    origins = [f"env: {_variable(settings_class, name)}"]
    if field.is_required():
        origins.append("required")
    elif field.default is not None and field.default is not False and field.default != ():
        origins.append(f"default: {field.default}")
    return "; ".join(origins)


def _metavar(annotation: Any) -> str:
    """A flag's value in the help: INT, PATH, auto|console|json."""
    if get_origin(annotation) in (Union, UnionType):
        return "|".join(_metavar(kind) for kind in get_args(annotation) if kind is not NoneType)
    if get_origin(annotation) is tuple:
        return _metavar(get_args(annotation)[0])
    if choices := _choices(annotation):
        return "|".join(choices)
    return "TEXT" if annotation in (str, SecretStr) else str(annotation.__name__).upper()


def _choices(annotation: Any) -> list[str]:
    """A flag's possible values, for the help and the shell; empty if they are not enumerated."""
    if get_origin(annotation) in (Union, UnionType):
        return [choice for kind in get_args(annotation) for choice in _choices(kind)]
    return [str(choice) for choice in get_args(annotation)] if get_origin(annotation) is Literal else []


def _completing(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """typer's completion of a flag's value; without a match, shells offer files."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def _complaint(settings_class: type[BaseSettings], detail: Mapping[str, Any]) -> str:
    name = str(detail["loc"][0]) if detail["loc"] else ""
    field = settings_class.model_fields.get(name)
    if field is None:
        return str(detail["msg"])
    spelled = name.upper() if _is_positional(field) else _spellings(name, field)[-1]
    variable = _variable(settings_class, name)
    if detail["type"] == "missing":
        return f"{spelled} is missing; give it on the command line or as {variable}: {field.description}"
    message = str(detail["msg"])
    got = "" if _is_secret(field.annotation) else f", got {_shown(detail['input'])!r}"
    return f"{spelled} (or {variable}): {message[0].lower()}{message[1:]}{got}"


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or SecretStr in get_args(annotation)


def _shown(value: Any) -> Any:
    """A value for people. Behind an address's # are a token and a fingerprint."""
    return _SECRETS.sub("#...", value) if isinstance(value, str) else value
