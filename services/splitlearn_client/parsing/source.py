"""A text that arrives piece by piece, and what parsers read it with.

Parsers are generators: they yield events, and None where they wait for more text. So a parser reads as if all of the
text were there, and how the text is divided makes no difference.

Pure.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Final, TypeVar

from splitlearn_client.parsing.events import Content, Event, Reasoning
from splitlearn_client.parsing.json_scan import JSONScan

R = TypeVar("R")
Step = Generator[Event | None, None, R]

LONGEST_NAME: Final = 200


class Malformed(Exception):
    """What comes is not in the expected form."""


class CutOff(Malformed):
    """The text ends before the form is complete."""


class Source:
    """The text that is not read yet, and from the mark on what was read."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._mark: int | None = None
        self._sent = 0
        self.dropped = ""
        """The white space before the last marker."""
        self.is_ended = False
        self.is_cut_off = False
        """Whether the text ended because it may not be longer."""

    def feed(self, text: str) -> None:
        """Adds text."""
        start = self._at if self._mark is None else self._mark
        self._text = self._text[start:] + text
        self._at -= start
        self._sent = max(self._sent - start, 0)
        self._mark = None if self._mark is None else 0

    def end(self, *, is_cut_off: bool) -> None:
        """No more text comes."""
        self.is_ended, self.is_cut_off = True, is_cut_off

    def mark(self, behind: int = 0) -> None:
        """Remembers this place, or so many characters before it, which were read already."""
        self._mark = self._sent = self._at - behind

    def unmark(self) -> None:
        self._mark = None

    def sent(self) -> None:
        """What was read so far has been told."""
        self._sent = self._at

    def take_rest(self) -> None:
        """Reads all that is left."""
        self._at = len(self._text)

    def back(self, count: int) -> None:
        """Goes back by so many characters, which were just read."""
        self._at -= count

    @property
    def raw(self) -> str:
        """What was read since the mark."""
        return self._text[self._mark or 0 : self._at]

    @property
    def unsent(self) -> str:
        """What was read since the mark and has not been told."""
        return self._text[self._sent : self._at]

    @property
    def rest(self) -> str:
        """What is not read yet."""
        return self._text[self._at :]

    def more(self) -> Step[None]:
        """Waits for more text. Raises CutOff."""
        before = len(self._text) - self._at
        while len(self._text) - self._at == before:
            if self.is_ended:
                raise CutOff
            yield None

    def until(
        self, markers: Sequence[str], tell: type[Content] | type[Reasoning], *, strips: bool = False
    ) -> Step[str | None]:
        """Tells text up to the first marker, which is read too; None if none comes.

        White space before a marker is dropped, and with `strips` also that at the beginning. No marker begins another.
        """
        while True:
            if strips:
                self._at += len(self.rest) - len(self.rest.lstrip())
                strips = self._at == len(self._text)
            found = [(place, each) for each in markers if (place := self._text.find(each, self._at)) >= 0]
            if found:
                place, marker = min(found)
                text = self._text[self._at : place].rstrip()
                self.dropped = self._text[self._at + len(text) : place]
                self._at = place + len(marker)
                if text:
                    yield tell(text)
                return marker
            rest = self.rest
            if self.is_ended:
                if text := rest.rstrip() if tell is Reasoning else rest:
                    yield tell(text)
                self._at = len(self._text)
                return None
            if markers:
                rest = rest[: len(rest) - _held(rest, markers)].rstrip()
            if rest:
                self._at += len(rest)
                yield tell(rest)
            yield None

    def space(self) -> Step[None]:
        """Skips white space."""
        while True:
            self._at += len(self.rest) - len(self.rest.lstrip())
            if self._at < len(self._text) or self.is_ended:
                return
            yield None

    def literal(self, *options: str) -> Step[str]:
        """Reads the option that comes next; none begins another. Empty if none comes."""
        while True:
            rest = self.rest
            for option in options:
                if rest.startswith(option):
                    self._at += len(option)
                    return option
            if self.is_ended or not any(option.startswith(rest) for option in options):
                return ""
            yield None

    def expect(self, *options: str) -> Step[str]:
        """As `literal`. Raises Malformed if none comes, CutOff if the text ends before."""
        found = yield from self.literal(*options)
        if not found:
            raise CutOff if any(option.startswith(self.rest) for option in options) else Malformed
        return found

    def up_to(self, *markers: str, longest: int | None = LONGEST_NAME) -> Step[tuple[str, str]]:
        """Reads up to the first marker, and it. The text before it, and the marker. Raises Malformed."""
        while True:
            found = [(place, each) for each in markers if (place := self._text.find(each, self._at)) >= 0]
            most = None if longest is None else longest if found else longest + max(map(len, markers)) - 1
            before = min(found)[0] - self._at if found else len(self._text) - self._at
            if most is not None and before > most:
                raise Malformed
            if found:
                place, marker = min(found)
                text = self._text[self._at : place]
                self._at = place + len(marker)
                return text, marker
            yield from self.more()

    def json(self, tell: Callable[[str], Event] | None = None) -> Step[str]:
        """Reads a JSON value. Its text, which `tell` makes events of as it comes. Raises Malformed."""
        scan, parts = JSONScan(), list[str]()
        while True:
            place = scan.feed(self._text, self._at)
            if part := self._text[self._at : place]:
                self._at = place
                parts.append(part)
                if tell is not None:
                    self.sent()
                    yield tell(part)
            if scan.is_done:
                return "".join(parts)
            if scan.is_broken:
                raise Malformed
            yield from self.more()


def _held(text: str, markers: Sequence[str]) -> int:
    """The length of the longest end of the text that is a marker's beginning."""
    for length in range(min(len(text), max(map(len, markers)) - 1), 0, -1):
        end = text[-length:]
        if any(each.startswith(end) for each in markers):
            return length
    return 0
