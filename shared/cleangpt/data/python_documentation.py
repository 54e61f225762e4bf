"""The running interpreter's documentation as plain text: training text that every machine has.

Sources: docstrings of the standard library and `pydoc_data.topics`. The text is the same in every
process; another Python version has other wording.
"""

import importlib
import inspect
from collections.abc import Iterator
from pydoc_data.topics import topics

from cleangpt.data.stdlib_questions import MODULES, belongs_to, require_docstrings


def documentation_texts() -> Iterator[str]:
    """One text for each module, with the docstrings of its functions and classes, and one for each topic.

    Raises DocumentationMissingError if docstrings were stripped (`python -OO`, PYTHONOPTIMIZE=2).
    """
    require_docstrings()
    for name in MODULES:
        yield "\n\n".join(_module_paragraphs(name))
    for _, text in sorted(topics.items()):
        yield text.strip()


def _module_paragraphs(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    yield f"{name}\n\n{inspect.getdoc(module) or ''}".strip()
    for member in sorted(getattr(module, "__all__", None) or vars(module)):
        value = getattr(module, member, None)
        if member.startswith("_") or not belongs_to(value, name):
            continue
        if not inspect.isclass(value) and not inspect.isroutine(value):
            continue
        yield from _documented(f"{name}.{member}", value)
        for method in sorted(vars(value)) if inspect.isclass(value) else ():
            inner = vars(value)[method]
            if not method.startswith("_") and inspect.isroutine(inner) and belongs_to(inner, name):
                yield from _documented(f"{name}.{member}.{method}", inner)


def _documented(subject: str, value: object) -> Iterator[str]:
    # only its own docstring: an inherited one describes the parent
    own = vars(value).get("__doc__") if inspect.isclass(value) else getattr(value, "__doc__", None)
    if isinstance(own, str) and own.strip():
        yield f"{subject}\n{inspect.cleandoc(own)}"
