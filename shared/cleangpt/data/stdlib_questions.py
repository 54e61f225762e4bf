"""Questions about Python, with answers from the running interpreter's own documentation.

Sources: docstrings of the standard library and `pydoc_data.topics`. Nothing is stored: another
Python version has other wording. Pure and deterministic: the order never depends on hashing or time.
"""

import importlib
import inspect
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Literal

from cleangpt.data.messages import ASSISTANT, USER, Message
from cleangpt.data.small_talk import SMALL_TALK, UNKNOWN_ANSWER, UNKNOWN_EVERY
from cleangpt.errors import DocumentationMissingError

Kind = Literal["function", "class", "module", "topic", "talk", "unknown"]

MIN_ANSWER_CHARS = 12
MAX_ANSWER_CHARS = 200

# Modules that exist on every platform and whose text hardly changed between Python 3.11 and 3.14. For the first
# list there are questions about every public function and class, for the second only about the module's purpose.
_MODULES_IN_FULL = """
    abc argparse base64 bisect bz2 calendar collections contextlib copy csv dataclasses datetime
    decimal difflib enum filecmp fileinput fnmatch fractions functools getpass glob graphlib gzip
    hashlib heapq hmac html io itertools json keyword linecache logging math os pathlib pickle pprint
    queue random re reprlib sched secrets shelve shlex shutil sqlite3 statistics string struct
    subprocess tarfile tempfile textwrap threading time timeit types typing urllib.parse urllib.request
    uuid warnings wave weakref webbrowser zipfile zlib
"""
_MODULES_IN_BRIEF = """
    ast cmath codecs colorsys configparser dis gc http.client inspect ipaddress lzma mimetypes operator
    pkgutil platform plistlib pstats socketserver sysconfig tokenize traceback tracemalloc unicodedata
"""
MODULES_IN_FULL = tuple(_MODULES_IN_FULL.split())
MODULES = tuple(sorted(_MODULES_IN_FULL.split() + _MODULES_IN_BRIEF.split()))
# Classes with questions about each method.
_CLASS_NAMES = """
    builtins.dict builtins.float builtins.int builtins.list builtins.set builtins.str builtins.tuple
    argparse.ArgumentParser collections.Counter collections.OrderedDict collections.deque
    datetime.date datetime.datetime fractions.Fraction logging.Logger
    pathlib.Path queue.Queue string.Template subprocess.Popen threading.Event threading.Thread
    zipfile.ZipFile
"""
CLASSES = tuple(_CLASS_NAMES.split())

_NAMED = ("what is {}", "what does {} do", "Tell me about {}.", "{}")
_PHRASINGS: dict[Kind, tuple[str, ...]] = {
    "function": ("What does {} do?", "What is {}?", *_NAMED),
    "class": ("What is {}?", "What does {} do?", *_NAMED),
    "module": ("What is the {} module for?", "What is {}?", *_NAMED),
    "topic": ("Explain {}.", "explain {}", "Tell me about {}.", "What is {}?", "{}"),
    "talk": ("{}",),
    "unknown": ("What does {} do?", "What is {}?", *_NAMED),
}
# two spaces after a period end a sentence, even before a lowercase letter
_STOP = "\0"
_WIDE_STOP = re.compile(r"(?<=\w\w\.)  +(?=\w)")
_SENTENCE_END = re.compile(rf"{_STOP}|(?<=[.!?])\s+(?=[A-Z\"'(`])")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|cf|vs|Inc|Dr|Mr|No|Sec)|\b[A-Z])\.$")
_PROSE = re.compile(r'["*]*[A-Z](?!ew in version|hanged in version)[^\n(]*[ \n](?!.*\n[*=~^-]{3})', re.DOTALL)
# the call itself, an arrow, and the text after the arrow if it is only a type
_SIGNATURE = re.compile(r"[\w.]+\s*\([^)]*\)\s*(?:(?:-+>|=>|:|--?)\s*(?:\S+(?: or \S+)?\s*(?:\n|$)|x\.\s+)?)?")
_LABEL = re.compile(r"(?:\S+ ){0,2}\S+(?<!\.)|\([^)]*\)")
_ARROW = re.compile(r"^[\w\[\], ]*-> |^[a-z], ")
_UNUSABLE = re.compile(r">>>|::=|<==>|===|---|->|\*\*\w|^@|^\w+ = |:$|^An enumeration\.$")
_TYPEWRITER = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-", "–": "-", "…": "..."})
_MARKUP = re.compile(r":[a-z]+:`~?([^`]*)`|``([^`]*)``|`([^`']*)[`']|\*\*([^*\s]+)\*\*|\*(\w[\w ]*)\*")
_BROKEN_HYPHEN = re.compile(r"(?<=\w)- (?!and |or )(?=\w)")


@dataclass(frozen=True)
class Question:
    """One subject to ask about, with all its trained phrasings and the one right answer."""

    subject: str
    kind: Kind
    answer: str

    @property
    def phrasings(self) -> tuple[str, ...]:
        """The ways to ask about the subject; the first is the one to show to people."""
        return tuple(form.format(self.subject) for form in _PHRASINGS[self.kind])

    @property
    def wordings(self) -> tuple[tuple[Message, ...], ...]:
        """Each phrasing with the answer, as a conversation."""
        answer = Message(ASSISTANT, self.answer)
        return tuple((Message(USER, phrasing), answer) for phrasing in self.phrasings)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every phrasing, with the space after the user marker, and the answer."""
        return (*(f" {phrasing}" for phrasing in self.phrasings), self.answer)


def collect_questions() -> tuple[Question, ...]:
    """Every question that this interpreter can answer, without repeated phrasings, always in the same order.

    Raises DocumentationMissingError if docstrings were stripped (`python -OO`, PYTHONOPTIMIZE=2).
    """
    require_docstrings()
    documented = _without_repeats([*_modules(), *_members(), *_builtins(), *_methods(), *_topics()])
    talk = [Question(subject, "talk", answer) for subject, answer in SMALL_TALK]
    return tuple(_without_repeats([*talk, *documented, *_unknown(documented)]))


def require_docstrings() -> None:
    """Raises DocumentationMissingError if docstrings were stripped."""
    if not collect_questions.__doc__ or not importlib.import_module("shutil").copyfile.__doc__:
        raise DocumentationMissingError(
            "the standard library of this interpreter carries no docstrings; "
            "run python without -OO and without PYTHONOPTIMIZE=2"
        )


def first_words(documentation: str | None, name: str = "") -> str | None:
    """As many first sentences of a docstring as fit into one short paragraph of plain text.

    A leading signature of `name` and markup are dropped, typographic characters become ASCII, the first
    letter is capitalized and the last sentence gets a period. None if nothing usable remains: no text, a
    first sentence longer than MAX_ANSWER_CHARS, only a signature, a grammar or an interpreter session.
    """
    text = inspect.cleandoc(documentation or "").strip()
    call = re.compile(rf"(?:[\w.]+\.)?{re.escape(name)}\s*\(") if name else None
    if call is None or not call.match(text):
        title = rf"^(?:module )?{re.escape(name)}(?:\.py)?(?: module)? --? "
        return _one_paragraph(re.sub(title, "", text, flags=re.IGNORECASE))
    # a signature may be followed by just a label ("deque object"); the prose is then in the next paragraph
    head, _, body = text.partition("\n\n")
    overloaded = body and "\n" in head and all(call.match(line) for line in head.split("\n"))
    text = body if overloaded else _SIGNATURE.sub("", text, count=1).strip()
    paragraphs = [part for part in text.split("\n\n")[:2] if not _LABEL.fullmatch(part.strip())]
    return _one_paragraph(paragraphs[0]) if paragraphs else None


def _one_paragraph(text: str) -> str | None:
    spaced = _WIDE_STOP.sub(_STOP, _MARKUP.sub(_bare, text.split("\n\n", 1)[0]))
    paragraph = " ".join(spaced.split()).translate(_TYPEWRITER)
    paragraph = _ARROW.sub("", _BROKEN_HYPHEN.sub("-", paragraph))
    taken = ""
    for sentence in _sentences(paragraph):
        longer = f"{taken} {sentence}".strip()
        if len(longer) > MAX_ANSWER_CHARS:
            break
        taken = longer
    if len(taken) < MIN_ANSWER_CHARS or _UNUSABLE.search(taken) or taken.count("(") != taken.count(")"):
        return None
    if re.match(r"[a-z]+ ", taken):
        taken = taken[0].upper() + taken[1:]
    return taken if taken[-1] in ".!?" else f"{taken}."


def _bare(marked: re.Match[str]) -> str:
    return next(group for group in marked.groups() if group is not None)


def _sentences(paragraph: str) -> Iterator[str]:
    pending = ""
    for piece in _SENTENCE_END.split(paragraph):
        pending = f"{pending} {piece}".strip()
        if not _ABBREVIATION.search(pending):
            yield pending
            pending = ""
    if pending:
        yield pending


def _modules() -> Iterator[Question]:
    for name in MODULES:
        answer = first_words(importlib.import_module(name).__doc__, name)
        if answer and answer.split()[0] != name:
            yield Question(name, "module", answer)


def _members() -> Iterator[Question]:
    for name in MODULES_IN_FULL:
        module = importlib.import_module(name)
        for member in sorted(getattr(module, "__all__", None) or vars(module)):
            value = getattr(module, member, None)
            if not member.startswith("_") and belongs_to(value, name):
                yield from _described(f"{name}.{member}", member, value)


def _builtins() -> Iterator[Question]:
    for name, value in sorted(vars(importlib.import_module("builtins")).items()):
        if not name.startswith("_") and getattr(value, "__module__", None) in ("builtins", "io"):
            yield from _described(name, name, value)


def _methods() -> Iterator[Question]:
    for path in CLASSES:
        module, _, class_name = path.rpartition(".")
        owner = getattr(importlib.import_module(module), class_name)
        for member in sorted(vars(owner)):
            value = getattr(owner, member)
            if not member.startswith("_") and belongs_to(value, module):
                subject = f"{path}.{member}".removeprefix("builtins.")
                yield from _described(subject, member, value)


def belongs_to(value: object, module: str) -> bool:
    """Whether `value` comes from the package of `module`: imported packages add names to others' modules."""
    home = (getattr(value, "__module__", None) or module).lstrip("_")
    return home.split(".")[0] == module.split(".")[0]


def _described(subject: str, name: str, value: object) -> Iterator[Question]:
    if not inspect.isclass(value) and not inspect.isroutine(value):
        return
    # only a class's own docstring: an inherited one describes the parent
    own = vars(value).get("__doc__") if inspect.isclass(value) else getattr(value, "__doc__", None)
    answer = first_words(own if isinstance(own, str) else None, name)
    if answer and not answer.startswith(f"{name}("):
        yield Question(subject, "class" if inspect.isclass(value) else "function", answer)


def _topics() -> Iterator[Question]:
    for _, text in sorted(topics.items()):
        title, *paragraphs = [part.strip("\n") for part in text.split("\n\n") if part.strip()]
        subject = title.split("\n", 1)[0].replace('"', "").strip().translate(_TYPEWRITER).lower()
        prose = (part.replace('"', "") for part in paragraphs if _PROSE.match(part))
        # a grammar or a table follows the colon; the sentence is complete without it
        answers = (first_words(re.sub(r":$", ".", part)) for part in prose)
        answer = next((found for found in answers if found), None)
        if answer:
            yield Question(subject, "topic", answer)


def _unknown(documented: Iterable[Question]) -> Iterator[Question]:
    """Questions about names that do not exist: a real member, under a module that lacks it."""
    for subject in (each.subject for each in documented if each.kind == "function" and "." in each.subject):
        # drawn by hashing the name, so that one more function in a new Python does not shift all the others
        drawn, module_drawn = divmod(zlib.crc32(subject.encode()), len(MODULES))
        module, member = MODULES[module_drawn], subject.rpartition(".")[2]
        if drawn % UNKNOWN_EVERY == 0 and not hasattr(importlib.import_module(module), member):
            yield Question(f"{module}.{member}", "unknown", UNKNOWN_ANSWER)


def _without_repeats(questions: Iterable[Question]) -> list[Question]:
    asked: set[str] = set()
    kept = []
    for question in questions:
        if asked.isdisjoint(question.phrasings):
            asked.update(question.phrasings)
            kept.append(question)
    return kept
