"""The process that runs a model's chat template, which is a stranger's program.

It is started by `template_process` as a script, without the package around it, and imports nothing but Jinja. The
sandbox keeps a template away from Python; that it neither runs nor grows without end is kept by the kernel: a limit on
the address space, and a timer that ends the process. Requests and replies are JSON behind their length in 8 bytes.
"""

import html  # noqa: F401
import json
import resource
import signal
import sys
import textwrap  # noqa: F401
import time
import unicodedata  # noqa: F401
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, BinaryIO

# without site-packages: the parent says where Jinja lies
sys.path += sys.argv[3:]

# these two Jinja imports when it needs them, as it does html, textwrap and unicodedata; later no file can be opened
import jinja2.constants
import jinja2.debug  # noqa: F401
from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_LONGEST_REASON = 500


class _Generation(Extension):
    """`{% generation %}` marks what an assistant said; for a prompt it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=lineno)


class _Namespace(Namespace):
    """Jinja's, without names that reach into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    # not a method: a namespace's attributes are the template's
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a template cannot store {name!r} on a namespace")


class _Dict:
    """What `dict` is in a template: the two ways to make one."""

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
    """As transformers renders chat templates; a test compares the two."""
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
    pieces, length = [], 0
    for piece in template.generate(variables):
        length += len(piece)
        if length > longest:
            raise TemplateError(f"it makes a text of more than {longest} characters")
        pieces.append(piece)
    return "".join(pieces)


def answer_to(work: Callable[[], str]) -> dict[str, str]:
    """The text, or why there is none; what a template does wrong is never an error of this process."""
    try:
        return {"text": work()}
    except MemoryError:
        return {"error": "it needs too much memory"}
    except Exception as error:  # noqa: BLE001 (a template may raise whatever Python can)
        reason = str(error) if type(error) is TemplateError else f"{type(error).__name__}: {error}"
        return {"error": " ".join(reason[:_LONGEST_REASON].split())}


def serve(requests: BinaryIO, replies: BinaryIO, cpu_seconds: float) -> None:
    """Answers until nobody asks any more. The first request is the template's source."""
    template: Template | None = None

    def compiled(source: str) -> str:
        nonlocal template
        template = environment().from_string(source)
        return ""

    while header := requests.read(8):
        asked = json.loads(requests.read(int.from_bytes(header)))
        # nothing catches its signal: it ends the process even within one call of C
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        if template is None:
            answer = answer_to(lambda: compiled(asked["source"]))  # noqa: B023 (called here)
        else:
            answer = answer_to(lambda: rendered(template, asked["variables"], asked["longest"]))  # noqa: B023
        body = json.dumps(answer).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(len(body).to_bytes(8) + body)
        replies.flush()
        if template is None:
            return


def _confine(memory_bytes: int) -> None:
    # what Python reads only when it is needed
    time.tzset()
    answer_to(environment().from_string("{{ '%s'|format(1)|pprint }}{{ 1 / 0 }}").render)
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
    # Ctrl-C is for the service, whose end this process notices
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _confine(int(sys.argv[1]))
    serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[2]))
