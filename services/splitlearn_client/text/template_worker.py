"""The process that runs a model's chat template, which is an untrusted program.

`template_process` starts it as a script, without its package, and it imports only Jinja. Jinja's sandbox keeps the
template away from Python. The kernel limits its time and memory: by a limit on the address space, and by a timer that
kills the process. Requests and replies are JSON, each after its length in 8 bytes.
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

# there is no site-packages: the parent passes the path of Jinja
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

_LONGEST_REASON = 500


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


def answer_to(work: Callable[[], str]) -> dict[str, str]:
    """The text, or the reason why there is none. No error of a template ends this process."""
    try:
        return {"text": work()}
    except MemoryError:
        return {"error": "it needs too much memory"}
    except Exception as error:  # noqa: BLE001 (a template may raise whatever Python can)
        reason = str(error) if type(error) is TemplateError else f"{type(error).__name__}: {error}"
        return {"error": " ".join(reason[:_LONGEST_REASON].split())}


def serve(requests: BinaryIO, replies: BinaryIO, cpu_seconds: float) -> None:
    """Answers requests until there are no more. The first one is the template's source."""
    template: Template | None = None

    def compiled(source: str) -> str:
        nonlocal template
        template = environment().from_string(source)
        return ""

    while header := requests.read(8):
        request = json.loads(requests.read(int.from_bytes(header)))
        # nothing handles its signal, so it kills the process even inside a C function
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        if template is None:
            answer = answer_to(lambda: compiled(request["source"]))  # noqa: B023 (called here)
        else:
            answer = answer_to(lambda: rendered(template, request["variables"], request["longest"]))  # noqa: B023
        body = json.dumps(answer).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(len(body).to_bytes(8) + body)
        replies.flush()
        if template is None:
            return


def _confine(memory_bytes: int) -> None:
    # makes Python read these files before none can be opened
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
    # Ctrl-C ends the service, and that ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _confine(int(sys.argv[1]))
    serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[2]))
