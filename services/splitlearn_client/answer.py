"""Turns chosen tokens into an answer's text, and says what each token added to it."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from splitlearn_client.sampling import Choice
from splitlearn_client.stopping import StopRules, StopText
from splitlearn_client.text.incremental import IncrementalText
from splitlearn_client.text.vocabulary import LOST, Vocabulary


@dataclass(frozen=True)
class Alternative:
    """A token that could have been chosen, with its text in the middle of a text, or a stand-in for that."""

    token: int
    text: str
    spelled: bytes | None
    """Its bytes; None for a token that texts leave out."""
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """What one token added to the answer. The texts of all tokens join to the answer's text, and so do the bytes."""

    token: int
    text: str
    """Empty for the first tokens of a character, for tokens that texts leave out, and in a stop string."""
    spelled: bytes
    logprob: float | None
    """None for the first token of a prompt."""
    offset: int
    """Characters of the answer before this token."""
    alternatives: tuple[Alternative, ...] = ()
    rank: int | None = None
    """Of a prompt's token: 1 for the likeliest."""


@dataclass(frozen=True)
class TokenDelta:
    """The text that one more token makes certain. Empty while a character or a possible stop string is incomplete."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    """One entry for each token whose text is in this delta; empty unless the request wants log-probabilities."""
    finish_reason: str | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """Of the prompt's tokens, in the first delta of an answer that they are asked for with."""
    n_tokens: int = 1
    """0 for a delta that is about the prompt alone."""
    token_ids: tuple[int, ...] = ()
    """The token that it is about; in a piece of a message also those before it that made nothing certain."""
    stop_reason: str | int | None = None
    """What the request named that ended the answer: a stop string, or the id of a token."""


@dataclass(frozen=True)
class _Said:
    """A token and its text, kept until all of that text is certain."""

    choice: Choice
    text: str
    spelled: bytes


def spelled_prompt(vocabulary: Vocabulary, ids: Sequence[int], scored: Sequence[Choice]) -> Iterator[TokenDelta]:
    """A prompt's text, and the log-probabilities of its tokens; token by token, as all of a long prompt take long.

    Args:
        scored: all tokens but the first, as if they had been chosen.
    """
    text = AnswerText(vocabulary, (), StopRules())
    for number, choice in enumerate([Choice(ids[0], 0.0), *scored], start=1):
        yield text.add(choice, last=number == len(ids))


class AnswerText:
    """Turns the tokens of one answer into deltas.

    Args:
        prompt: the ids before the answer.
        rules: what ends the answer.
        end_tokens: the model's own end tokens.
        shown: hidden tokens whose names are in the text all the same, unless they end the answer.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        prompt: Sequence[int],
        rules: StopRules,
        end_tokens: frozenset[int] = frozenset(),
        shown: frozenset[int] = frozenset(),
    ) -> None:
        self._shown = shown
        self._vocabulary = vocabulary
        self._rules = rules
        self._end_tokens = rules.end_tokens(end_tokens)
        self._text = IncrementalText(vocabulary, prompt)
        self._stops = StopText(rules.texts, passes=rules.include_stop_str_in_output)
        self._n_tokens = 0
        self._waiting: deque[_Said] = deque()
        self._certain = ""
        self.offset = 0
        """Characters of the reply before the next token."""
        self._owed = b""
        """Bytes of an incomplete character."""

    def add(self, choice: Choice, *, last: bool, complete: bool = False) -> TokenDelta:
        """Adds the next token.

        Args:
            last: no token can follow.
            complete: nothing may follow, as the answer is all that was asked for.
        """
        self._n_tokens += 1
        ended = choice.token in self._end_tokens
        hidden = self._vocabulary.hidden(choice.token)
        marker = hidden if choice.token in self._shown and not ended else None
        if marker is not None:
            hidden = None
        silent = hidden is not None or (ended and not self._rules.include_stop_str_in_output)
        said = "" if silent else self._said(choice.token, marker)
        certain = self._certain_of(said, hidden)
        if (ended or last or complete) and not self._stops.hit:
            rest = self._text.flush()
            said += rest
            certain += self._certain_of(rest, None) + self._stops.flush()
        reason = "stop" if ended or complete or self._stops.hit else "length" if last else None
        ids, stop_reason = (choice.token,), self._stop_reason(choice.token)
        delta = partial(TokenDelta, finish_reason=reason, token_ids=ids, stop_reason=stop_reason)
        if choice.logprob is None:
            return delta(certain)
        spelled = said.encode() if silent else self._spelled(choice.token, said)
        self._waiting.append(_Said(choice, said, spelled))
        self._certain += certain
        entries = tuple(self._released(whole=reason is None))
        return delta("".join(entry.text for entry in entries), entries)

    def _said(self, token: int, marker: str | None) -> str:
        return self._text.feed(token) if marker is None else self._text.interrupt() + marker

    def _certain_of(self, said: str, hidden: str | None) -> str:
        """The text that is certain with a token that says this, or has this name and no text."""
        if self._n_tokens <= self._rules.min_tokens:
            # no stop string is looked for
            return said
        certain = self._stops.feed(said)
        return certain if hidden is None else certain + self._stops.feed_hidden(hidden)

    def _stop_reason(self, token: int) -> str | int | None:
        if self._stops.matched is not None:
            return self._stops.matched
        return token if token in self._rules.stop_token_ids else None

    def _released(self, *, whole: bool) -> list[TokenLogprob]:
        """The tokens whose text is certain; with `whole` all of them, cut where the answer ends."""
        entries = []
        while self._waiting and (not whole or len(self._waiting[0].text) <= len(self._certain)):
            said = self._waiting.popleft()
            text, self._certain = self._certain[: len(said.text)], self._certain[len(said.text) :]
            spelled = said.spelled if text == said.text and not self._cut_off(text) else text.encode()
            entries.append(self._entry(said.choice, text, spelled))
        return entries

    def _cut_off(self, text: str) -> bool:
        """Whether a token without text is in or after a stop string."""
        return self._stops.hit and not text and not self._certain

    def _entry(self, choice: Choice, text: str, spelled: bytes) -> TokenLogprob:
        offset, self.offset = self.offset, self.offset + len(text)
        alternatives = tuple(
            Alternative(token, text, spelled, logprob)
            if token == choice.token
            else Alternative(token, *self._described(token), logprob)
            for token, logprob in choice.alternatives
        )
        return TokenLogprob(choice.token, text, spelled, choice.logprob, offset, alternatives, choice.rank)

    def _described(self, token: int) -> tuple[str, bytes | None]:
        hidden = self._vocabulary.hidden(token)
        if hidden is not None:
            return hidden or f"token_id:{token}", None
        text, spelled = self._vocabulary.text(token), self._vocabulary.bytes(token)
        # OpenAI's form for a part of a character
        return ("bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled) if LOST in text else text), spelled

    def _spelled(self, token: int, said: str) -> bytes:
        """The token's bytes: the vocabulary's, unless its text differs here, for example has no leading space."""
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
