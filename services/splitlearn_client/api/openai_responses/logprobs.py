"""Which tokens' log-probabilities belong to a message's text, as markers and calls are no text.

Pure.
"""

from collections.abc import Iterable
from typing import Any

from splitlearn_client.answer import TokenLogprob
from splitlearn_client.api.replies import chat_logprob


class TextLogprobs:
    """The tokens of one answer that have not been told with a text."""

    def __init__(self) -> None:
        self._waiting = list[TokenLogprob]()

    def add(self, entries: Iterable[TokenLogprob]) -> None:
        """Adds tokens, whose texts go on with those before them."""
        self._waiting += entries

    def of(self, text: str) -> list[dict[str, Any]]:
        """Takes the tokens that a text is of, and forgets those before them."""
        joined = "".join(entry.text for entry in self._waiting)
        begin = max(0, joined.rfind(text))
        end, place = begin + len(text), 0
        found, after = list[TokenLogprob](), list[TokenLogprob]()
        for entry in self._waiting:
            stop = place + len(entry.text)
            if place >= end:
                after.append(entry)
            elif stop > begin or place == begin:
                found.append(entry)
            place = stop
        self._waiting = after
        return [chat_logprob(entry) for entry in found]

    def forget(self) -> None:
        """What is left is of no text."""
        self._waiting.clear()
