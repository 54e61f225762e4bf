"""Takes one answer apart as it comes.

Pure.
"""

from collections.abc import Callable
from typing import Protocol

from splitlearn_client.parsing.calls import Calls
from splitlearn_client.parsing.events import Content, Event, Reasoning
from splitlearn_client.parsing.form import Form
from splitlearn_client.parsing.source import Source, Step
from splitlearn_client.parsing.thoughts import Thoughts


class Parser(Protocol):
    """Takes one answer apart."""

    def feed(self, text: str) -> list[Event]:
        """What is certain with more text."""
        ...

    def finish(self, *, is_cut_off: bool) -> list[Event]:
        """The rest, at the end of the text. `is_cut_off`: it would go on."""
        ...


class SteppedParser:
    """Runs a generator that reads the answer."""

    def __init__(self, read: Callable[[Source], Step[None]]) -> None:
        self._source = Source()
        self._steps = read(self._source)

    def feed(self, text: str) -> list[Event]:
        self._source.feed(text)
        return self._run()

    def finish(self, *, is_cut_off: bool) -> list[Event]:
        self._source.end(is_cut_off=is_cut_off)
        return self._run()

    def _run(self) -> list[Event]:
        events = list[Event]()
        for step in self._steps:
            if step is not None:
                events.append(step)
            elif not self._source.is_ended:
                break
        return events


def read_marked(
    source: Source, calls: Calls, form: Form | None, thoughts: Thoughts | None, *, thinks: bool
) -> Step[None]:
    """Reads an answer in which markers are around calls and reasoning; `thinks`: it begins within the latter."""
    openers = form.openers if form else ()
    marker: str | None = thoughts.opening if thoughts and thinks else None
    strips = False
    if marker is None and form is not None:
        yield from form.begin(source, calls)
    while True:
        if thoughts is not None and marker == thoughts.opening:
            if (yield from source.until((thoughts.closing,), Reasoning, strips=True)) is None:
                return
            strips = True
            if form is not None:
                yield from source.space()
                yield from form.begin(source, calls)
        elif form is not None and marker is not None:
            yield from form.read(source, calls, source.dropped + marker)
            strips = True
        markers = (*openers, *(() if thoughts is None else (thoughts.opening,)))
        marker = yield from source.until(markers, Content, strips=strips)
        if marker is None:
            return


def read_formed(
    source: Source, calls: Calls, form: Form | None, thoughts: Thoughts | None, *, thinks: bool
) -> Step[None]:
    """Reads an answer whose content is in a form that was asked for: what looks like a marker in it is content.

    Reasoning comes first, if any does, and then either calls or the content.
    """
    opening = "" if thoughts is None else thoughts.opening if thinks else (yield from source.literal(thoughts.opening))
    if thoughts is not None and opening:
        if (yield from source.until((thoughts.closing,), Reasoning, strips=True)) is None:
            return
        yield from source.space()
    openers = form.openers if form else ()
    marker = yield from source.literal(*openers)
    while form is not None and marker:
        yield from form.read(source, calls, marker)
        yield from source.space()
        marker = yield from source.literal(*openers)
    yield from source.until((), Content)
