"""From chosen tokens to what a reply says: text, and what each token added to it."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from client_service.sampling import Choice
from client_service.stopping import StopText
from client_service.text.incremental import IncrementalText
from client_service.text.vocabulary import LOST, Vocabulary


@dataclass(frozen=True)
class Alternative:
    """A token that could have been taken: its text in the middle of a text, or what stands for it."""

    token: int
    text: str
    spelled: bytes | None
    """Its bytes; None for a token that is left out of texts."""
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """What one token added to the answer. The texts of all join to the answer's text, and so do the bytes."""

    token: int
    text: str
    """Empty for the first tokens of a character, for those left out of texts, and for those of a stop string."""
    spelled: bytes
    logprob: float
    offset: int
    """Characters of the answer before it."""
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class TokenDelta:
    """What is certain with one more token; may be nothing while characters or stop strings are incomplete."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens whose text is this delta's; empty if they were not asked for."""
    finish_reason: str | None = None


@dataclass(frozen=True)
class _Said:
    """A token with what it said; it is kept until all of that is certain."""

    choice: Choice
    text: str
    spelled: bytes


class AnswerText:
    """Turns the tokens of one answer into its deltas."""

    def __init__(self, vocabulary: Vocabulary, prompt: Sequence[int], stops: tuple[str, ...]) -> None:
        self._vocabulary = vocabulary
        self._text = IncrementalText(vocabulary, prompt)
        self._stops = StopText(stops)
        self._waiting: deque[_Said] = deque()
        self._certain = ""
        self._offset = 0
        self._owed = b""
        """Bytes of a character that is not complete yet."""

    def add(self, choice: Choice, *, ended: bool, last: bool) -> TokenDelta:
        """The next token.

        Args:
            ended: it is one that ends an answer, and says nothing.
            last: no other token can follow.
        """
        hidden = self._vocabulary.hidden(choice.token)
        said = "" if ended or hidden is not None else self._text.feed(choice.token)
        certain = self._stops.feed(said)
        if hidden is not None:
            certain += self._stops.feed_hidden(hidden)
        if (ended or last) and not self._stops.hit:
            rest = self._text.flush()
            said += rest
            certain += self._stops.feed(rest) + self._stops.flush()
        reason = "stop" if ended or self._stops.hit else "length" if last else None
        if choice.logprob is None:
            return TokenDelta(certain, (), reason)
        silent = ended or hidden is not None
        spelled = said.encode() if silent else self._spelled(choice.token, said)
        self._waiting.append(_Said(choice, said, spelled))
        self._certain += certain
        entries = tuple(self._released(whole=reason is None))
        return TokenDelta("".join(entry.text for entry in entries), entries, reason)

    def _released(self, *, whole: bool) -> list[TokenLogprob]:
        """The tokens whose text is certain; at the end all of them, with as much of it as is said."""
        entries = []
        while self._waiting and (not whole or len(self._waiting[0].text) <= len(self._certain)):
            said = self._waiting.popleft()
            text, self._certain = self._certain[: len(said.text)], self._certain[len(said.text) :]
            spelled = said.spelled if text == said.text and not self._cut_off(text) else text.encode()
            entries.append(self._entry(said.choice, text, spelled))
        return entries

    def _cut_off(self, text: str) -> bool:
        """Whether a token without a text lies in or behind a stop string."""
        return self._stops.hit and not text and not self._certain

    def _entry(self, choice: Choice, text: str, spelled: bytes) -> TokenLogprob:
        offset, self._offset = self._offset, self._offset + len(text)
        alternatives = tuple(
            Alternative(token, text, spelled, logprob)
            if token == choice.token
            else Alternative(token, *self._described(token), logprob)
            for token, logprob in choice.alternatives
        )
        return TokenLogprob(choice.token, text, spelled, choice.logprob or 0.0, offset, alternatives)

    def _described(self, token: int) -> tuple[str, bytes | None]:
        hidden = self._vocabulary.hidden(token)
        if hidden is not None:
            return hidden or f"token_id:{token}", None
        text, spelled = self._vocabulary.text(token), self._vocabulary.bytes(token)
        # as OpenAI writes part of a character
        return ("bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled) if LOST in text else text), spelled

    def _spelled(self, token: int, said: str) -> bytes:
        """The token's bytes: the vocabulary's, unless they said something else here, such as no leading space."""
        own = self._vocabulary.bytes(token)
        owed, total = self._owed, self._owed + own
        if not said:
            if not owed and LOST not in self._vocabulary.text(token):
                return b""
            self._owed = total
            return own
        told = said.encode()
        if total.startswith(told):
            self._owed = total[len(told) :]
            return own
        self._owed = b""
        return own if LOST in said or not told.startswith(owed) else told[len(owed) :]
