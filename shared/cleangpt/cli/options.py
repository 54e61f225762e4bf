"""Derives flags and a settings file from a frozen dataclass: every field is a flag and a key of the TOML file."""

import difflib
import inspect
import math
import tomllib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

from cleangpt.errors import UsageError

O = TypeVar("O")  # noqa: E741 - options

_CONFIG_HELP = "TOML file whose keys are these flags' names; the command line takes precedence."


# where others count in 32 bits
_TOO_LARGE = 2**31


class Recorded(NamedTuple):
    """Values that a file has for the fields of an options class, and the names of those that somebody named."""

    file: Path
    values: Mapping[str, Any]
    given: frozenset[str]


def flag(
    help_text: str,
    default: Any = MISSING,
    *,
    document: str | None = None,
    source: Callable[[Path], Recorded] | None = None,
    recorded: Callable[[Any], Any] | None = None,
) -> Any:
    """A field of an options class; it is required if it has no default.

    Args:
        document: another name for the flag.
        source: the flag's value is a path, for which this returns values of the fields that nobody names.
        recorded: what a record may hold of the value, where some of it is secret.
    """
    metadata = {"help": help_text, "document": document, "source": source, "recorded": recorded}
    return field(default=default, metadata=metadata)


def names_to_unset(help_text: str) -> Any:
    """A field for the names of fields that are to have their defaults, whatever a flag's `source` says."""
    return field(default=(), metadata={"help": help_text, "unset": True})


def table(help_text: str) -> Any:
    """A field that only a settings file can set: a table of further values."""
    return field(default_factory=dict, metadata={"help": help_text, "table": True})


def names_given() -> Any:
    """A field for the names of the fields that the command line or the file set. No flag and no key sets it."""
    return field(default=frozenset(), metadata={"names_given": True})


def spelled(name: str) -> str:
    """The flag of a field, as shown in the help."""
    return f"--{name.replace('_', '-')}"


def refuse_huge(options: Any, *, but: Container[str]) -> None:
    """Raises UsageError if a whole number other than those in `but` is more than torch counts to."""
    for each in fields(options):
        value = getattr(options, each.name)
        if isinstance(value, int) and abs(value) >= _TOO_LARGE and each.name not in but:
            raise UsageError(f"{spelled(each.name)} has to be below {_TOO_LARGE}, found {value}")


def refuse_infinite(options: Any, *, but: Container[str] = ()) -> None:
    """Raises UsageError if a number, or one of several, is infinite or NaN in a field other than those in `but`."""
    for each in fields(options):
        for value in values_of(getattr(options, each.name)):
            if isinstance(value, float) and not math.isfinite(value) and each.name not in but:
                raise UsageError(f"{spelled(each.name)} has to be a finite number, found {value}")


def values_of(given: Any) -> tuple[Any, ...]:
    """What an option says: nothing, one value or several."""
    return given if isinstance(given, tuple) else () if given is None else (given,)


def command(options_class: type[O], run: Callable[[O], int | None]) -> Callable[..., int | None]:
    """A function that typer can turn into a command, and that calls `run` with the options.

    When called, it raises UsageError if a value is missing or not allowed, or the file has an unknown key.
    """

    def call(config: Path | None, **given: Any) -> int | None:
        return run(options_from(options_class, given, config))

    parameters = [_parameter(each, _kinds(options_class)[each.name]) for each in _fields(options_class) if _flag(each)]
    config = inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=typer.Option(None, "--config", metavar="FILE", help=_CONFIG_HELP, show_default=False),
        annotation=Path | None,
    )
    call.__signature__ = inspect.Signature([*parameters, config])  # type: ignore[attr-defined]
    return call


def options_from(options_class: type[O], given: Mapping[str, Any], config: Path | None = None) -> O:
    """The options from the command line (None means not given) and the file. Raises UsageError."""
    found = {} if config is None else _read(options_class, config)
    kinds = _kinds(options_class)
    found |= {name: _split(name, kinds[name], value) for name, value in given.items() if value is not None}
    named = frozenset(found)
    unset = _names_to_unset(options_class, found)
    sources = [each for each in _fields(options_class) if each.metadata.get("source")]
    if unset and not any(each.name in found for each in sources):
        raise UsageError(f"--unset leaves out options of what {_any_flag(sources)} names, which is not given")
    for each in sources:
        if each.name in found:
            recorded = each.metadata["source"](found[each.name])
            values = _checked(options_class, recorded.values, recorded.file)
            if missing := [name for name in unset if name not in values]:
                raise UsageError(f"--unset {missing[0]}: {recorded.file} does not set it, so leave that out")
            found = {**{name: value for name, value in values.items() if name not in unset}, **found}
            named |= recorded.given - set(unset)
    for each in _fields(options_class):
        if each.name in found:
            _refuse_other_choices(each.name, kinds[each.name], found[each.name])
        elif each.default is MISSING and each.default_factory is MISSING:
            raise UsageError(
                f"{spelled(each.name)} is missing; give it on the command line, or as {each.name} in the --config "
                f"file: {each.metadata['help']}"
            )
    return options_class(**found, **dict.fromkeys(_places_for_names(options_class), named))


def _names_to_unset(options_class: type[Any], found: Mapping[str, Any]) -> list[str]:
    """The fields that are named to be unset, under their own names. Raises UsageError."""
    names = []
    for word in (
        name for each in _fields(options_class) if "unset" in each.metadata for name in found.get(each.name, ())
    ):
        name = _fields_by_key(options_class).get(word.strip().removeprefix("--").replace("-", "_"))
        if name is None:
            raise UsageError(f"--unset: there is no option {word!r}{_meant(word, _kinds(options_class))}")
        if name in found:
            raise UsageError(f"--unset names {name}, and {spelled(name)} is given; leave out one of them")
        names.append(name)
    return names


def _any_flag(several: "Sequence[Field[Any]]") -> str:
    return " or ".join(spelled(_names(each)[-1]) for each in several)


def _fields_by_key(options_class: type[Any]) -> dict[str, str]:
    return {name: each.name for each in _fields(options_class) for name in _names(each)}


def _meant(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def _read(options_class: type[Any], file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not a valid TOML file: {error}") from error
    return _checked(options_class, values, file)


def _checked(options_class: type[Any], values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The values by the names of their fields, in the fields' types. Raises UsageError."""
    kinds = _kinds(options_class)
    fields_by_key = _fields_by_key(options_class)
    values = {fields_by_key.get(key.replace("-", "_"), key): value for key, value in values.items()}
    for key in values:
        if key not in kinds:
            raise UsageError(f"{file}: unknown key {key!r}{_meant(key, kinds)}")
    return {key: _converted(f"{file}: {key}", kinds[key], value) for key, value in values.items()}


def _converted(where: str, kind: Any, value: Any) -> Any:
    """Converts a TOML value to the field's type. An integer is also valid as a float, but true is not valid as 1."""
    plain = _plain(kind)
    if plain is Path and isinstance(value, str):
        return Path(value)
    if plain is float and type(value) is int:
        return float(value)
    if get_origin(plain) is tuple:
        values = value if isinstance(value, list) and value else [value]
        return tuple(_converted(where, get_args(plain)[0], each) for each in values)
    # any other type that is neither a Literal nor plain is a table
    origin = get_origin(plain)
    wanted = plain if origin is None else str if origin is Literal else dict
    if type(value) is not wanted:
        raise UsageError(f"{where}: expected {_metavar(kind)}, found {value!r}")
    return value


def _split(name: str, kind: Any, value: Any) -> Any:
    """A list as it is spelled on the command line, with commas, as the field's type."""
    plain = _plain(kind)
    if get_origin(plain) is not tuple or not isinstance(value, str):
        return value
    try:
        return tuple(get_args(plain)[0](word) for word in value.split(","))
    except ValueError:
        raise UsageError(f"{spelled(name)}: expected {_metavar(kind)}, found {value!r}") from None


def _refuse_other_choices(name: str, kind: Any, value: Any) -> None:
    plain = _plain(kind)
    if get_origin(plain) is Literal and value not in get_args(plain):
        raise UsageError(f"{spelled(name)}: expected {' or '.join(get_args(plain))}, found {value!r}")


def _parameter(each: "Field[Any]", kind: Any) -> inspect.Parameter:
    plain = _plain(kind)
    default = "required" if each.default is MISSING else each.default
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    ends = "" if default is None or default is False else f" [{shown}]"
    flags = [spelled(name) for name in _names(each)]
    if plain is bool:
        flags = [f"{name}/--no-{name[2:]}" for name in flags]
    metavar = None if plain is bool else _metavar(kind)
    info = typer.Option(None, *flags, metavar=metavar, help=f"{each.metadata['help']}{ends}", show_default=False)
    annotation = str if get_origin(plain) in (Literal, tuple) else plain
    return inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation | None)


def _names(each: "Field[Any]") -> list[str]:
    document = each.metadata.get("document")
    return [each.name] if document is None else [each.name, document]


def _fields(options_class: type[Any]) -> tuple["Field[Any]", ...]:
    """The fields that flags or keys set."""
    return tuple(each for each in fields(options_class) if "names_given" not in each.metadata)


def _places_for_names(options_class: type[Any]) -> list[str]:
    return [each.name for each in fields(options_class) if "names_given" in each.metadata]


def _flag(each: "Field[Any]") -> bool:
    return "table" not in each.metadata


def _kinds(options_class: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(options_class)
    return {each.name: hints[each.name] for each in _fields(options_class)}


def _plain(kind: Any) -> Any:
    """The type without its `| None`."""
    if get_origin(kind) in (Union, UnionType):
        [plain] = [each for each in get_args(kind) if each is not NoneType]
        return plain
    return kind


def _metavar(kind: Any) -> str:
    plain = _plain(kind)
    if get_origin(plain) is Literal:
        return "|".join(get_args(plain))
    if get_origin(plain) is tuple:
        one = _metavar(get_args(plain)[0])
        return f"{one}[,{one}...]"
    names = {str: "TEXT", int: "INT", float: "FLOAT", Path: "PATH", bool: "true or false"}
    return names.get(plain, "a table")
