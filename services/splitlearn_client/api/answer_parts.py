"""What an answer has in it, as it comes: all text is content, or it is taken apart.

Pure.
"""

from splitlearn_client.answer import TokenDelta
from splitlearn_client.parsing.dialect import Reading
from splitlearn_client.parsing.events import CallBegun, Content, Event


class AnswerParts:
    """Takes one answer apart.

    Args:
        reading: how; None if all of it is content.
        holds: whether calls are held back until they are complete.
    """

    def __init__(self, reading: Reading | None, *, holds: bool = False) -> None:
        self._parser = None if reading is None else reading.make_parser(holds)
        self._calls = False

    def add(self, delta: TokenDelta) -> list[Event]:
        """What is certain with this delta."""
        if self._parser is None:
            return [Content(delta.text)] if delta.text else []
        events = self._parser.feed(delta.text)
        if delta.finish_reason is not None:
            events += self._parser.finish(is_cut_off=delta.finish_reason == "length")
        self._calls |= any(isinstance(event, CallBegun) for event in events)
        return events

    def finish_reason(self, delta: TokenDelta) -> str | None:
        """OpenAI's word for why the answer ended with this delta, if it did."""
        return "tool_calls" if self._calls and delta.finish_reason == "stop" else delta.finish_reason
