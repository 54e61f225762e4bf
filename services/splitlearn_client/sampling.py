"""Chooses a token from logits.

Shapes: V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from splitlearn_client.drawing import Filters, draw
from splitlearn_client.errors import BadRequest, BrokenNumbers, GrammarFailed, RequestError
from splitlearn_client.logits_processors import (
    AnswerPenalty,
    Beginning,
    Floats,
    LogitsProcessor,
    NoBadWords,
    NoEnd,
    OnlyThese,
    RepetitionPenalty,
    Temperature,
    TokenBias,
)
from splitlearn_client.structured.matcher import Matcher

# Below this, the probability of every token but the most likely rounds to 0, and dividing by it overflows.
COLDEST = 1e-5


@dataclass(frozen=True)
class SamplingSettings:
    """Named as in the OpenAI API and transformers. Sampling is greedy at a temperature below `COLDEST`, or with a
    `top_p` of 0, which leaves the likeliest token."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Divides positive logits, and multiplies others, of all tokens that came before, the prompt's too."""
    frequency_penalty: float = 0.0
    """Is taken from a token's logit as often as the answer has the token."""
    presence_penalty: float = 0.0
    """Is taken once from the logits of the answer's tokens."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Is added to the logits of these tokens."""
    allowed_token_ids: frozenset[int] | None = None
    """No other token comes; None allows all."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Tokens that do not come in a row in the answer."""
    seed: int | None = None
    top_logprobs: int | None = None
    """Alternatives to report beside the chosen token; None: no log-probabilities."""

    @property
    def greedy(self) -> bool:
        return self.temperature < COLDEST or not self.top_p


@dataclass(frozen=True)
class Choice:
    """The chosen token, and if requested log-probabilities, of the logits before any processing."""

    token: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()
    rank: int | None = None
    """1 for the likeliest token; None where nobody asked."""


_WHOLE_ANSWER: Final = Beginning()


class Sampler:
    """Chooses the tokens of one request, whose ids only grow. With a seed, equal logits give equal tokens.

    Args:
        matcher: says which tokens may come; it has to be `ready` before each step's choices. None if all may.
    """

    def __init__(
        self, settings: SamplingSettings, beginning: Beginning = _WHOLE_ANSWER, matcher: Matcher | None = None
    ) -> None:
        self._settings = settings
        self.matcher = matcher
        self._bans = _bans(settings, beginning)
        self._processors = _processors(settings, beginning)
        self._filters = Filters(settings.top_k, settings.top_p, settings.min_p)
        self._ids: list[int] = []
        self._generator = torch.Generator()
        if settings.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(settings.seed)

    @property
    def n_likeliest(self) -> int | None:
        """How many of the likeliest tokens the choice is made among, whatever the others' logits are; None: all."""
        settings = self._settings
        needs_all = self.matcher is not None or settings.top_logprobs is not None
        if needs_all or any(not isinstance(each, Temperature) for each in self._processors):
            return None
        return 1 if settings.greedy else settings.top_k or None

    def follow(self, logits_TV: torch.Tensor, ids: list[int], guesses: Sequence[int]) -> list[Choice]:
        """The next token after `ids`, and the next ones as long as the guesses were right: what `choose` would give
        token by token.

        Args:
            logits_TV: behind `ids` and behind each guess.

        Raises:
            RequestError: as `choose`, of the first token; of a later one the next step raises it.
        """
        choices = [self.choose(logits_TV[0], ids)]
        for n, guess in enumerate(guesses, start=1):
            if choices[-1].token != guess or (self.matcher is not None and n == len(self.matcher.biases)):
                break
            try:
                choices.append(self.choose(logits_TV[n], ids, guesses[:n]))
            except RequestError:
                break
        return choices

    def choose(self, logits_V: torch.Tensor, ids: list[int], behind: Sequence[int] = ()) -> Choice:
        """The next token after `ids` and the tokens `behind` them.

        Raises:
            BrokenNumbers: the logits hold NaN or infinity. Minus infinity is valid: the model rules the token out.
            BadRequest: what the request bans leaves no token.
            GrammarFailed: the model has no token that the grammar allows here.
        """
        scores_V = widened(logits_V)
        check_numbers(scores_V)
        token = self._token(scores_V.numpy(), ids, behind)
        return self._report(token, scores_V)

    def _token(self, scores_V: Floats, ids: list[int], behind: Sequence[int]) -> int:
        if self.matcher is not None or self._processors:
            scores_V = scores_V.copy()
        if self.matcher is not None:
            mask(scores_V, self.matcher, len(behind))
        if self._processors:
            seen = self._seen(ids, behind)
            for process in self._processors:
                process(seen, scores_V)
        if self._bans and math.isinf(scores_V.max()):
            raise BadRequest(f"no token could come next with {' and '.join(self._bans)}; ban fewer", self._bans[0])
        if self._settings.greedy:
            return int(scores_V.argmax())
        return draw(scores_V, self._filters, float(torch.rand(1, generator=self._generator, dtype=torch.float64)))

    def _seen(self, ids: list[int], behind: Sequence[int]) -> list[int]:
        """All ids. Only new ones are copied, as a long prompt's take longer than the choice."""
        known = len(self._ids)
        self._ids += [*ids[known:], *behind[max(0, known - len(ids)) :]]
        return self._ids

    def _report(self, token: int, scores_V: torch.Tensor) -> Choice:
        wanted = self._settings.top_logprobs
        if wanted is None:
            return Choice(token)
        logprobs_V = scores_V.log_softmax(dim=-1)
        values, indices = logprobs_V.topk(min(wanted, logprobs_V.shape[0]))
        likely = zip(indices.tolist(), values.tolist(), strict=True)
        alternatives = tuple((index, value) for index, value in likely if value > -torch.inf)
        return Choice(token, float(logprobs_V[token]), alternatives)


def mask(scores_V: Floats, matcher: Matcher, n_behind: int) -> None:
    """Makes them minus infinity where the grammar allows no token. Raises GrammarFailed."""
    if n_behind >= len(matcher.biases):
        raise RuntimeError("the mask of this token is not ready")
    bias_V = matcher.biases[n_behind][: scores_V.size]
    scores_V[: bias_V.size] += bias_V
    scores_V[bias_V.size :] = -np.inf
    if math.isinf(scores_V.max()):
        raise GrammarFailed("the model has no token that the grammar allows here", matcher.param)


def check_numbers(logits_TV: torch.Tensor) -> None:
    """Raises BrokenNumbers if fp32 logits hold NaN or infinity, or rule out all tokens in a row."""
    # numpy's max is NaN if any value is
    if not np.isfinite(logits_TV.numpy().max(axis=-1)).all():
        raise BrokenNumbers(
            "the model's logits hold NaN or infinity; check the weights with `splitlearn inspect --verify`, "
            "or run client and trunk in another dtype"
        )


def widened(logits: torch.Tensor) -> torch.Tensor:
    """Logits in fp32. By numpy: torch would wake its threads for this size, which takes longer than the work."""
    if logits.dtype is not torch.bfloat16:
        return logits.float()
    # bf16 is the upper half of fp32
    bits = logits.view(torch.int16).numpy().astype(np.int32)
    return torch.from_numpy((bits << 16).view(np.float32))


def _bans(settings: SamplingSettings, beginning: Beginning) -> tuple[str, ...]:
    """The fields that rule tokens out."""
    used = {
        "allowed_token_ids": settings.allowed_token_ids is not None,
        "bad_words": bool(settings.bad_words),
        "min_tokens": beginning.tokens > 0 and bool(beginning.end_tokens),
    }
    return tuple(name for name, is_used in used.items() if is_used)


def _processors(settings: SamplingSettings, beginning: Beginning) -> list[LogitsProcessor]:
    """In vLLM's order."""
    found: list[LogitsProcessor] = []
    if settings.allowed_token_ids is not None:
        found.append(OnlyThese(settings.allowed_token_ids))
    if settings.bad_words:
        found.append(NoBadWords(settings.bad_words, beginning.prompt))
    if settings.logit_bias:
        found.append(TokenBias(dict(settings.logit_bias)))
    if beginning.tokens and beginning.end_tokens:
        found.append(NoEnd(beginning))
    if settings.repetition_penalty != 1.0:
        found.append(RepetitionPenalty(settings.repetition_penalty))
    if settings.frequency_penalty or settings.presence_penalty:
        found.append(AnswerPenalty(settings.frequency_penalty, settings.presence_penalty, beginning.prompt))
    if not settings.greedy and settings.temperature != 1.0:
        found.append(Temperature(settings.temperature))
    return found
