"""What ends an answer. A stop string ends its text, which is held back while it may be the beginning of one.

Pure: text in, text out.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

Match = tuple[int, str]
"""How many characters of the visible text a stop string has, and the stop string."""


@dataclass(frozen=True)
class StopRules:
    """What ends an answer beside its length. Named as in vLLM, but for `texts`, which are its `stop`.

    `stop_token_ids` end an answer like the model's own end tokens, which do not if `ignore_eos` is set. None of all
    these comes within the first `min_tokens` tokens. What ends the answer is part of its text only with
    `include_stop_str_in_output`.
    """

    texts: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    min_tokens: int = 0
    include_stop_str_in_output: bool = False

    def end_tokens(self, of_model: frozenset[int]) -> frozenset[int]:
        """The tokens that end the answer."""
        return self.stop_token_ids if self.ignore_eos else self.stop_token_ids | of_model


class StopText:
    """Passes text on, except for what may be the beginning of a stop string.

    A stop string matches in the visible text, and in the text with the names of hidden tokens: "<|im_end|>" ends an
    answer, and so does "done<|im_end|>". The first complete match counts; of several at once, the longest. The time is
    linear in the length of the text, however it is divided.

    Args:
        stops: strings that end the text.
        passes: whether the string that ends the text is passed on too.
    """

    def __init__(self, stops: tuple[str, ...], *, passes: bool = False) -> None:
        self._passes = passes
        self._seen = [_Search(stop) for stop in stops]
        self._full: list[_Search] | None = None
        """The same searches in the text with hidden tokens; None before the first hidden token."""
        self._longest = max(map(len, stops), default=0)
        self._shown: deque[int] = deque(maxlen=self._longest + 1)
        """For each of the last characters of the text with hidden tokens: how many visible characters came up to it."""
        self._held = ""
        self.matched: str | None = None
        """The stop string that ended the text."""

    @property
    def hit(self) -> bool:
        """Whether a stop string ended the text."""
        return self.matched is not None

    def feed(self, text: str) -> str:
        """Adds text, and returns what is certain. After a match it returns nothing."""
        if self.hit or not self._seen:
            return "" if self.hit else text
        for index, character in enumerate(text):
            matched = [(search.length, search.wanted) for search in self._seen if search.feed(character)]
            if self._full is not None:
                self._shown.append(self._shown[-1] + 1)
                matched += self._matched(self._full, character)
            if matched:
                return self._end(self._held + text[: index + 1], max(matched))
        self._held += text
        return self._pass(max(search.matched for search in self._seen))

    def feed_hidden(self, name: str) -> str:
        """As `feed`, for a hidden token; `name` is its text in a stop string."""
        if self.hit or not self._seen:
            return ""
        if self._full is None:
            # until now both texts were the same
            self._full = [search.copy() for search in self._seen]
            self._shown.extend(range(self._longest + 1))
        for character in name:
            self._shown.append(self._shown[-1])
            if matched := self._matched(self._full, character):
                return self._end(self._held, max(matched))
        return self._pass(max(search.matched for search in self._seen))

    def flush(self) -> str:
        """Returns the text that was held back. Call it at the end of the text."""
        passed, self._held = self._held, ""
        return passed

    def _matched(self, searches: "Iterable[_Search]", character: str) -> list[Match]:
        return [(self._visible(search.length), search.wanted) for search in searches if search.feed(character)]

    def _visible(self, length: int) -> int:
        """How many of the last `length` characters of the text with hidden tokens are visible."""
        return self._shown[-1] - self._shown[-1 - length]

    def _pass(self, keep: int) -> str:
        if self._full is not None:
            keep = max(keep, *(self._visible(search.matched) for search in self._full))
        cut = len(self._held) - keep
        passed, self._held = self._held[:cut], self._held[cut:]
        return passed

    def _end(self, text: str, match: Match) -> str:
        n_visible, self.matched = match
        self._held = ""
        return text if self._passes else text[: len(text) - n_visible]


class _Search:
    """Finds one string in a text that arrives character by character (Knuth, Morris, Pratt)."""

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        # for each matched prefix, the length of its longest proper prefix that is also its suffix
        self._shorter = [0, 0]
        self.length = len(wanted)
        self.matched = 0
        """Length of the longest suffix of the text that is a prefix of the string."""

    def copy(self) -> "_Search":
        """A search in the same state."""
        made = _Search(self.wanted)
        made._shorter, made.matched = list(self._shorter), self.matched
        return made

    def feed(self, character: str) -> bool:
        """Whether this character completes the string."""
        wanted, shorter, matched = self.wanted, self._shorter, self.matched
        while matched and wanted[matched] != character:
            matched = shorter[matched]
        if wanted[matched] == character:
            matched += 1
            self._learn(matched)
        self.matched = matched
        return matched == self.length

    def _learn(self, matched: int) -> None:
        while len(self._shorter) <= matched:
            wanted, known = self.wanted, self._shorter
            length, last = known[-1], wanted[len(known) - 1]
            while length and wanted[length] != last:
                length = known[length]
            known.append(length + 1 if wanted[length] == last else 0)
