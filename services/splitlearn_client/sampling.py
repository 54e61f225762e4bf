"""Chooses a token from logits, with transformers' logits processors.

Shapes: V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from splitlearn_client.errors import BadRequest, BrokenNumbers, GrammarFailed, RequestError
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


@dataclass(frozen=True)
class Beginning:
    """An answer's first tokens, of which none is an end token.

    `prompt` is how many tokens the answer follows, `tokens` how many they are.
    """

    prompt: int = 0
    tokens: int = 0
    end_tokens: frozenset[int] = frozenset()


class Sampler:
    """Chooses the tokens of one request, whose ids only grow. With a seed, equal logits give equal tokens.

    Args:
        matcher: says which tokens may come; it has to be `ready` before each step's choices. None if all may.
    """

    def __init__(
        self, settings: SamplingSettings, beginning: Beginning = Beginning(), matcher: Matcher | None = None
    ) -> None:
        self._settings = settings
        self.matcher = matcher
        self._bans = _bans(settings, beginning)
        self._processors = _processors(settings, beginning)
        self._ids_1T = torch.empty(1, 0, dtype=torch.long)
        self._generator = torch.Generator()
        if settings.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(settings.seed)

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
        scores_1V = widened(logits_V)[None]
        check_numbers(scores_1V)
        allowed_1V = scores_1V if self.matcher is None else masked(scores_1V, self.matcher, len(behind))
        processed_1V = self._processors(self._seen(ids, behind), allowed_1V) if self._processors else allowed_1V
        if self._bans and math.isinf(processed_1V.numpy().max()):
            raise BadRequest(f"no token could come next with {' and '.join(self._bans)}; ban fewer", self._bans[0])
        if self._settings.greedy:
            token = int(processed_1V.numpy().argmax())
        else:
            probabilities_1V = processed_1V.softmax(dim=-1)
            token = int(torch.multinomial(probabilities_1V, 1, generator=self._generator))
        return self._report(token, scores_1V[0])

    def _seen(self, ids: list[int], behind: Sequence[int]) -> torch.Tensor:
        """The ids [1, T]. Only new ones are converted, as a long prompt's take longer than the choice."""
        known = self._ids_1T.shape[1]
        if new := [*ids[known:], *behind[max(0, known - len(ids)) :]]:
            self._ids_1T = torch.cat([self._ids_1T, torch.tensor([new])], dim=1)
        return self._ids_1T

    def _report(self, token: int, scores_V: torch.Tensor) -> Choice:
        wanted = self._settings.top_logprobs
        if wanted is None:
            return Choice(token)
        logprobs_V = scores_V.log_softmax(dim=-1)
        values, indices = logprobs_V.topk(min(wanted, logprobs_V.shape[0]))
        likely = zip(indices.tolist(), values.tolist(), strict=True)
        alternatives = tuple((index, value) for index, value in likely if value > -torch.inf)
        return Choice(token, float(logprobs_V[token]), alternatives)


def masked(scores_1V: torch.Tensor, matcher: Matcher, n_behind: int) -> torch.Tensor:
    """The scores, with minus infinity where the grammar allows no token. Raises GrammarFailed."""
    if n_behind >= len(matcher.biases):
        raise RuntimeError("the mask of this token is not ready")
    bias_V = matcher.biases[n_behind][: scores_1V.shape[1]]
    masked_1V = np.full(scores_1V.shape, -np.inf, dtype=np.float32)
    np.add(scores_1V.numpy()[:, : bias_V.shape[0]], bias_V, out=masked_1V[:, : bias_V.shape[0]])
    if math.isinf(masked_1V.max()):
        raise GrammarFailed("the model has no token that the grammar allows here", matcher.param)
    return torch.from_numpy(masked_1V)


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


def _processors(settings: SamplingSettings, beginning: Beginning) -> LogitsProcessorList:
    """In vLLM's order, but for the filters, which are in that of transformers."""
    processors = LogitsProcessorList()
    if settings.allowed_token_ids is not None:
        processors.append(_OnlyThese(settings.allowed_token_ids))
    if settings.bad_words:
        processors.append(_NoBadWords(settings.bad_words, beginning.prompt))
    if settings.logit_bias:
        processors.append(SequenceBiasLogitsProcessor({(token,): bias for token, bias in settings.logit_bias}))
    if beginning.tokens and beginning.end_tokens:
        processors.append(_NoEnd(beginning))
    if settings.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.frequency_penalty or settings.presence_penalty:
        processors.append(_AnswerPenalty(settings, beginning.prompt))
    if settings.greedy:
        return processors
    if settings.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k > 0:
        processors.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1.0:
        processors.append(TopPLogitsWarper(settings.top_p))
    if settings.min_p > 0.0:
        processors.append(MinPLogitsWarper(settings.min_p))
    return processors


class _OnlyThese(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Bans all tokens but some."""

    def __init__(self, allowed: frozenset[int]) -> None:
        self._allowed = torch.tensor(sorted(allowed))
        self._banned_V: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._banned_V is None:
            self._banned_V = torch.ones(scores.shape[1], dtype=torch.bool)
            # some models have fewer logits than embeddings
            self._banned_V[self._allowed[self._allowed < scores.shape[1]]] = False
        return scores.masked_fill(self._banned_V, -torch.inf)


class _NoBadWords(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Bans the last token of each word whose tokens before it end the answer. transformers' own searches the prompt
    too."""

    def __init__(self, words: tuple[tuple[int, ...], ...], n_prompt: int) -> None:
        self._words = [(word[:-1], word[-1]) for word in words]
        self._n_prompt = n_prompt
        self._n_most = max(map(len, words)) - 1

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        begin = max(self._n_prompt, input_ids.shape[1] - self._n_most)
        last = tuple(input_ids[0, begin:].tolist())
        banned = {token for before, token in self._words if not before or last[-len(before) :] == before}
        within = torch.tensor(sorted(token for token in banned if token < scores.shape[1]), dtype=torch.long)
        return scores.index_fill(1, within, -torch.inf)


class _NoEnd(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Bans the end tokens. transformers' own searches them for each token of the vocabulary: 10 ms for a large one."""

    def __init__(self, beginning: Beginning) -> None:
        self._until = beginning.prompt + beginning.tokens
        self._ends = torch.tensor(sorted(beginning.end_tokens))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(1, self._ends, -torch.inf) if input_ids.shape[1] < self._until else scores


class _AnswerPenalty(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """OpenAI's two penalties on the answer's tokens, which transformers does not have. For one answer that grows."""

    def __init__(self, settings: SamplingSettings, n_prompt: int) -> None:
        self._frequency, self._presence = settings.frequency_penalty, settings.presence_penalty
        self._n_counted = n_prompt
        self._penalty_V: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._penalty_V is None:
            self._penalty_V = torch.zeros_like(scores[0])
            self._present = torch.zeros_like(scores[0], dtype=torch.bool)
        for token in input_ids[0, self._n_counted :].tolist():
            self._penalty_V[token] += self._frequency
            if not self._present[token]:
                self._present[token] = True
                self._penalty_V[token] += self._presence
        self._n_counted = input_ids.shape[1]
        return scores - self._penalty_V
