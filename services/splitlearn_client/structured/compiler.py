"""Compiles constraints off the event loop, within limits, and keeps the newest."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from splitlearn_client.errors import BadRequest, TooBusy
from splitlearn_client.structured.constraint import Constraint
from splitlearn_client.structured.grammar_trial import PARSER_LIMITS, BadGrammar, GrammarTrial
from splitlearn_client.structured.matcher import Grammar
from splitlearn_client.structured.reasons import reason_of
from splitlearn_client.structured.vocabulary import NoVocabulary

MOST_GRAMMARS: Final = 64
# characters of all grammars that are kept; a compiled one takes up to 500 times as many bytes
MOST_CHARACTERS: Final = 1 << 19
MOST_WAITING: Final = 16
# one for masks that take long, and one so that others need not wait for them
_THREADS: Final = 2
_LONGEST_PARAM: Final = 200


class GrammarCompiler:
    """Compiles constraints for one vocabulary. Nothing of it runs before the first constraint comes.

    Args:
        read_vocabulary: makes llguidance's tokenizer; blocks. May raise NoVocabulary.
    """

    def __init__(self, read_vocabulary: Callable[[], LLTokenizer], trial: GrammarTrial | None = None) -> None:
        self._read_vocabulary = read_vocabulary
        self._trial = trial or GrammarTrial()
        self._masks = ThreadPoolExecutor(_THREADS, "mask")
        self._compiling = ThreadPoolExecutor(1, "grammar")
        self._n_waiting = 0
        self._kept: OrderedDict[Constraint, tuple[Grammar, int]] = OrderedDict()
        """Used by the event loop alone; with each grammar's characters."""
        self._vocabulary: LLTokenizer | NoVocabulary | None = None
        """Used by the compiling thread alone."""

    def close(self) -> None:
        """Ends the threads; waiting requests fail."""
        for each in (self._masks, self._compiling):
            each.shutdown(wait=False, cancel_futures=True)

    async def compile(self, constraint: Constraint) -> Grammar:
        """The compiled constraint. Cancelling takes work that has not begun out of the queue.

        Raises:
            BadRequest: it is no such thing, no text follows it, it exceeds the limits, or this model's tokenizer cannot
                be used for it.
            ProcessFailed: see `GrammarTrial`.
            TooBusy: too many others wait for this.
        """
        kept = self._kept.get(constraint)
        if kept is None or kept[0].spent.is_set():
            if self._n_waiting == MOST_WAITING:
                raise TooBusy("too many grammars wait to be compiled; try again later", retry_after=1.0)
            self._n_waiting += 1
            try:
                kept = await asyncio.get_running_loop().run_in_executor(self._compiling, self._compiled, constraint)
            finally:
                self._n_waiting -= 1
            self._kept[constraint] = kept
            while len(self._kept) > 1 and (
                len(self._kept) > MOST_GRAMMARS or sum(size for _, size in self._kept.values()) > MOST_CHARACTERS
            ):
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(constraint)
        return replace(kept[0], param=constraint.param)

    def _compiled(self, constraint: Constraint) -> tuple[Grammar, int]:
        try:
            grammar = self._trial.grammar(constraint)
            tokenizer = self._known_vocabulary()
        except BadGrammar as error:
            within = error.path if constraint.kind == "answer" and error.path else (constraint.param, *error.path)
            where = ".".join(within)
            raise BadRequest(f"it cannot be followed: {error}", where[:_LONGEST_PARAM]) from error
        except NoVocabulary as error:
            raise BadRequest(
                f"this model's answers cannot be constrained: {error}; leave the field out", constraint.param
            ) from error
        beginning = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(**PARSER_LIMITS))
        if beginning.is_error():
            # the trial's vocabulary is all bytes, and this model's may have tokens that a grammar names, or lack them
            raise BadRequest(f"it cannot be followed: {reason_of(beginning.get_error())[:300]}", constraint.param)
        return Grammar(beginning, frozenset(tokenizer.eos_tokens), self._masks, constraint.param), len(grammar)

    def _known_vocabulary(self) -> LLTokenizer:
        if self._vocabulary is None:
            try:
                self._vocabulary = self._read_vocabulary()
            except NoVocabulary as error:
                self._vocabulary = error
        if isinstance(self._vocabulary, NoVocabulary):
            raise self._vocabulary
        return self._vocabulary
