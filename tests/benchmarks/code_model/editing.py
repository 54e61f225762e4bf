"""Conversations about code, made up of the standard library's functions: copied, edited, completed, summarised.

What benchmarks of speculation ask: texts that repeat much of their prompt, and texts that do not. Equal seeds give
equal conversations where the standard library is the same. Pure but for reading its files.
"""

import ast
import builtins
import keyword
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

KINDS: Final = ("copy", "rename", "replace", "remove", "join", "complete", "summarise")
REPEATING: Final = frozenset({"copy", "rename", "replace", "remove", "join"})
"""Answers of these kinds are mostly text of their prompt."""

_NAMES: Final = """
    argparse bisect calendar cmd codeop colorsys configparser contextlib copy csv dataclasses difflib dis enum
    filecmp fileinput fnmatch fractions functools getopt getpass gettext glob graphlib gzip heapq hmac imaplib
    inspect ipaddress linecache locale mailbox mimetypes netrc nturl2path opcode optparse pdb pickle
    pickletools pkgutil platform plistlib poplib pprint profile pstats pyclbr queue quopri random reprlib
    rlcompleter runpy sched secrets selectors shelve shlex shutil smtplib socketserver statistics string
    stringprep subprocess symtable tabnanny tarfile tempfile textwrap threading timeit token tokenize trace
    traceback tracemalloc types uuid warnings wave weakref webbrowser zipapp
"""
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z_0-9]{2,}")
_RESERVED: Final = frozenset({*keyword.kwlist, *dir(builtins), "self", "cls"})
_ASKED: Final = {
    "copy": ("Copy this.", "Repeat this code.", "Say this again.", "Give me the same code back."),
    "rename": ("Rename {} to {}.", "Call {} {} instead.", "Change the name {} to {}."),
    "replace": ("Replace {} by {}.", "Write {} as {}.", "Change {} into {}."),
    "remove": ("Remove the docstring.", "Drop the docstring.", "Give me this without its docstring."),
    "join": ("Swap the two functions.", "Put the second function first.", "The other way round, please."),
    "complete": ("Complete this.", "Go on.", "Write the rest."),
    "summarise": ("What does this do?", "Summarise this.", "Say in a sentence what this does."),
}


@dataclass(frozen=True)
class Conversation:
    """One question about code and its answer."""

    kind: str
    question: str
    answer: str

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]


@dataclass(frozen=True)
class Function:
    """A function's text, from its first line on, without the indentation of its class.

    Attributes:
        bare: the same without its docstring.
        summary: the docstring's first sentence; None where there is none of use.
    """

    text: str
    bare: str
    summary: str | None


def functions() -> list[Function]:
    """Those of the standard library, in the order of its files, each once."""
    found: dict[str, Function] = {}
    for name in _NAMES.split():
        file = Path(sysconfig.get_path("stdlib")) / f"{name}.py"
        if file.exists():
            for each in functions_of(file.read_text(encoding="utf-8")):
                found.setdefault(each.text, each)
    return list(found.values())


def functions_of(source: str) -> Iterator[Function]:
    """Those of a module's text, without the ones that are a docstring alone."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef) or node.end_lineno is None or "\t" in lines[node.lineno - 1]:
            continue
        whole = lines[node.lineno - 1 : node.end_lineno]
        documentation, bare = ast.get_docstring(node), whole
        if documentation is not None:
            first = node.body[0]
            if first.end_lineno is None or len(node.body) == 1:
                continue
            bare = [*lines[node.lineno - 1 : first.lineno - 1], *lines[first.end_lineno : node.end_lineno]]
        indent = node.col_offset
        summary = None if documentation is None else _sentence(documentation)
        yield Function(_dedented(whole, indent), _dedented(bare, indent), summary)


def _dedented(lines: Sequence[str], indent: int) -> str:
    return "\n".join(line[indent:].rstrip() if not line[:indent].strip() else line.rstrip() for line in lines).strip()


def _sentence(documentation: str) -> str | None:
    first = " ".join(documentation.split("\n\n")[0].split())
    return first if 12 <= len(first) <= 120 and first.endswith(".") else None


def conversations(known: Sequence[Function], seed: str, longest: int) -> Iterator[Conversation]:
    """Without end, about these functions.

    Args:
        longest: characters of code in a question, at most.
    """
    random = Random(seed)
    short = [each for each in known if len(each.bare) <= longest]
    while True:
        kind = random.choice(KINDS)
        made = _made(kind, random.choice(short), random.choice(short), random, longest)
        if made is not None:
            yield made


def word_lists(known: Sequence[Function], seed: str, longest: int) -> Iterator[Conversation]:
    """Without end: names in no order, to be copied. Nothing but copying foretells the answer, so they teach it soonest.

    Args:
        longest: words, at most.
    """
    random = Random(seed)
    words = sorted({word for each in known for word in _WORD.findall(each.bare)})
    while True:
        answer = " ".join(random.choices(words, k=random.randint(2, longest)))
        yield Conversation("copy", f"{random.choice(_ASKED['copy'])}\n{answer}", answer)


def _made(kind: str, one: Function, other: Function, random: Random, longest: int) -> Conversation | None:
    asked = random.choice(_ASKED[kind])
    code = one.bare
    answer: str | None = code
    if kind in ("rename", "replace"):
        words = sorted({*_WORD.findall(code)} - _RESERVED)
        numbers = sorted({*re.findall(r"\b\d+\b|'[a-z]+'|\"[a-z]+\"", code)})
        new = sorted({*_WORD.findall(other.bare)} - _RESERVED - {*words})
        old = words if kind == "rename" else numbers
        if not old or not new:
            return None
        gone, comes = random.choice(old), random.choice(new)
        comes = comes if kind == "rename" else str(random.randrange(1000))
        asked = asked.format(gone, comes)
        answer = re.sub(rf"(?<!\w){re.escape(gone)}(?!\w)", comes, code)
    elif kind == "remove":
        code = one.text
        answer = one.bare if one.summary is not None else None
    elif kind == "join":
        code, answer = f"{one.bare}\n\n{other.bare}", f"{other.bare}\n\n{one.bare}"
    elif kind == "complete":
        lines = code.splitlines()
        cut = random.randrange(1, max(2, len(lines)))
        code, answer = "\n".join(lines[:cut]), "\n".join(lines[cut:])
    elif kind == "summarise":
        answer = one.summary
    if not answer or len(code) > longest:
        return None
    return Conversation(kind, f"{asked}\n{code}", answer)
