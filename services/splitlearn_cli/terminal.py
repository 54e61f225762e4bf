"""Output of the verbs: aligned text, byte counts, progress bars, a status line."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest

_CLEAR_LINE = "\r\x1b[K"
# control characters of ASCII and Latin-1, but for tab and line feed
_CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])


def human_bytes(count: int) -> str:
    """A byte count with three digits and a decimal unit: 988 MB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{count} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines with aligned columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    )


def printable(text: str) -> str:
    """The text of a stranger without what a terminal would obey: escape sequences lose their first character."""
    return text.translate(_CONTROLS)


def shown(text: str) -> str:
    """What to print on stdout: text as it is, for a file or a pipe, and `printable` for a terminal."""
    return printable(text) if sys.stdout.isatty() else text


@contextmanager
def bytes_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with each number of bytes done; shows a bar if stderr is a terminal."""
    from tqdm import tqdm

    with tqdm(
        total=total, desc=title, unit="B", unit_scale=True, file=sys.stderr, disable=not sys.stderr.isatty()
    ) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        yield advance


def note(text: str) -> None:
    """Prints a remark on stderr, dim if that is a terminal."""
    print(f"\x1b[2m{text}\x1b[0m" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


class Aside:
    """Text on stderr, in pieces, beside an answer on stdout; dim if that is a terminal."""

    def __init__(self) -> None:
        self._begun = False

    def add(self, text: str) -> None:
        """Prints one more piece."""
        self._begun = True
        text = f"\x1b[2m{printable(text)}\x1b[0m" if sys.stderr.isatty() else text
        print(text, end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Ends the text, if there is any. Call it before printing something else."""
        if self._begun:
            print("\n", file=sys.stderr, flush=True)
        self._begun = False


class StatusLine:
    """One line on stderr that says what the command waits for; on a terminal each text replaces the last."""

    def __init__(self) -> None:
        self._shown = ""

    def show(self, text: str) -> None:
        """Shows a text, unless it is shown already."""
        if text == self._shown:
            return
        self._shown = text
        if sys.stderr.isatty():
            print(f"{_CLEAR_LINE}{text} ...", end="", file=sys.stderr, flush=True)
        else:
            print(f"{text} ...", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Removes the line. Call it before printing something else."""
        if self._shown and sys.stderr.isatty():
            print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)
        self._shown = ""
