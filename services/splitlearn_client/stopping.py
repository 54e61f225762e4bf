"""Stop strings: ends a text at one, and holds text back while it may be the beginning of one.

Pure: text in, text out.
"""

from collections import deque


class StopText:
    """Passes text on, except for what may be the beginning of a stop string.

    A stop string matches in the visible text, and in the text with the names of hidden tokens: "<|im_end|>" ends an
    answer, and so does "done<|im_end|>". The first complete match counts; of several at once, the longest. The time is
    linear in the length of the text, however it is divided.

    Args:
        stops: strings that end the text. They are not passed on.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._seen = [_Search(stop) for stop in stops]
        self._full: list[_Search] | None = None
        """The same searches in the text with hidden tokens; None before the first hidden token."""
        self._longest = max(map(len, stops), default=0)
        self._shown: deque[int] = deque(maxlen=self._longest + 1)
        """For each of the last characters of the text with hidden tokens: how many visible characters came up to it."""
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """Adds text, and returns what is certain. After a match it returns nothing."""
        if self.hit or not self._seen:
            return "" if self.hit else text
        for index, character in enumerate(text):
            matched = [search.length for search in self._seen if search.feed(character)]
            if self._full is not None:
                self._shown.append(self._shown[-1] + 1)
                matched += [self._visible(search.length) for search in self._full if search.feed(character)]
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
            matched = [self._visible(search.length) for search in self._full if search.feed(character)]
            if matched:
                return self._end(self._held, max(matched))
        return self._pass(max(search.matched for search in self._seen))

    def flush(self) -> str:
        """Returns the text that was held back. Call it at the end of the text."""
        passed, self._held = self._held, ""
        return passed

    def _visible(self, length: int) -> int:
        """How many of the last `length` characters of the text with hidden tokens are visible."""
        return self._shown[-1] - self._shown[-1 - length]

    def _pass(self, keep: int) -> str:
        if self._full is not None:
            keep = max(keep, *(self._visible(search.matched) for search in self._full))
        cut = len(self._held) - keep
        passed, self._held = self._held[:cut], self._held[cut:]
        return passed

    def _end(self, text: str, matched: int) -> str:
        self.hit, self._held = True, ""
        return text[: len(text) - matched]


class _Search:
    """Finds one string in a text that arrives character by character (Knuth, Morris, Pratt)."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        # for each matched prefix, the length of its longest proper prefix that is also its suffix
        self._shorter = [0, 0]
        self.length = len(wanted)
        self.matched = 0
        """Length of the longest suffix of the text that is a prefix of the string."""

    def copy(self) -> "_Search":
        """A search in the same state."""
        made = _Search(self._wanted)
        made._shorter, made.matched = list(self._shorter), self.matched
        return made

    def feed(self, character: str) -> bool:
        """Whether this character completes the string."""
        wanted, shorter, matched = self._wanted, self._shorter, self.matched
        while matched and wanted[matched] != character:
            matched = shorter[matched]
        if wanted[matched] == character:
            matched += 1
            self._learn(matched)
        self.matched = matched
        return matched == self.length

    def _learn(self, matched: int) -> None:
        while len(self._shorter) <= matched:
            wanted, known = self._wanted, self._shorter
            length, last = known[-1], wanted[len(known) - 1]
            while length and wanted[length] != last:
                length = known[length]
            known.append(length + 1 if wanted[length] == last else 0)
