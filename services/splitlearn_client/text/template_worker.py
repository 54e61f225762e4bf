"""The process that runs a model's chat template, which is an untrusted program.

`template_process` starts it as a script. It imports Jinja, whose sandbox keeps the template away from Python, and what
limits its time and memory (`confined_worker`).
"""

import html  # noqa: F401
import json
import sys
import textwrap  # noqa: F401
import time
import unicodedata  # noqa: F401
from collections.abc import Mapping
from datetime import datetime
from typing import Any

# there is no site-packages: the parent passes where the packages are
sys.path += sys.argv[3:]

# Jinja imports these two, and html, textwrap and unicodedata, only when it needs them, and then no file can be opened
import jinja2.constants
import jinja2.debug  # noqa: F401
from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from splitlearn_client.confined_worker import confine, serve, shortened


class _Generation(Extension):
    """`{% generation %}` marks assistant messages for training; in a prompt it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=lineno)


class _Namespace(Namespace):
    """Jinja's namespace, without names that reach into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    # not a method, because the template could call it
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a template cannot store {name!r} on a namespace")


class _Dict:
    """A template's `dict`: the constructor and `fromkeys`."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _raise_exception(message: object) -> None:
    raise TemplateError(str(message))


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment() -> Environment:
    """The environment in which transformers renders chat templates; a test compares the two."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return made


def rendered(template: Template, variables: Mapping[str, Any], longest: int) -> str:
    """The template's text.

    Raises:
        TemplateError: it is longer than `longest` characters.
    """
    parts, length = [], 0
    for part in template.generate(variables):
        length += len(part)
        if length > longest:
            raise TemplateError(f"its text has more than {longest} characters")
        parts.append(part)
    return "".join(parts)


class Rendering:
    """What the process answers: the first request is the template's source, and each other one has variables."""

    def __init__(self) -> None:
        self._template: Template | None = None

    def answer_to(self, request: dict[str, Any]) -> dict[str, str]:
        """The text, or the reason why there is none. No error of a template ends this process."""
        try:
            if self._template is None:
                self._template = environment().from_string(request["source"])
                return {"text": ""}
            return {"text": rendered(self._template, request["variables"], request["longest"])}
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (a template may raise whatever Python can)
            return {
                "error": shortened(str(error) if type(error) is TemplateError else f"{type(error).__name__}: {error}")
            }


def _read_all_files() -> None:
    """Makes Python read the files that it reads when it needs them, before none can be opened."""
    time.tzset()
    try:
        environment().from_string("{{ '%s'|format(1)|pprint }}{{ 1 / 0 }}").render()
    except ZeroDivisionError:
        return


if __name__ == "__main__":
    _read_all_files()
    confine(int(sys.argv[1]))
    serve(Rendering().answer_to, float(sys.argv[2]))
