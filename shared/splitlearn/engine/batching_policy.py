"""When the next step begins, and how many rows of prompts it takes. Plain numbers; times in seconds, on one clock."""

from dataclasses import dataclass, field

from splitlearn.engine.arrivals import ArrivalEstimator
from splitlearn.engine.step_cost import StepCostModel

_EXPECTED_WITHIN = 1.0
"""A session that decoded less than this many seconds ago is expected to decode again."""


@dataclass(frozen=True)
class EngineState:
    """What an engine knows before a step.

    Attributes:
        now: the time, on the clock of the arrival estimator.
        n_decoding: sessions that have rows to decode now.
        n_prefilling: sessions that have rows of a prompt to run now.
        waiting_since: since when the sessions that decode have been held back for others; None if they have not.
        next_due: seconds until the device is needed for some session's next token; None if no session is expected.
        shares_cores: rows of prompts run beside tokens only, and not between them.
    """

    now: float
    n_decoding: int
    n_prefilling: int
    waiting_since: float | None = None
    next_due: float | None = None
    shares_cores: bool = False


@dataclass(frozen=True)
class StepDecision:
    """Begin after `wait` seconds, unless another session comes first, with at most `prefill_budget` rows of prompts."""

    wait: float
    prefill_budget: int


@dataclass
class BatchingPolicy:
    """Decides for one engine when to begin a step.

    Attributes:
        step_cost: how long steps and rows take.
        is_batched: several sessions share a step, so that it pays to wait for them.
        arrivals: which sessions are expected to decode again, and when.
    """

    step_cost: StepCostModel
    is_batched: bool
    arrivals: ArrivalEstimator = field(default_factory=ArrivalEstimator)

    def prefill_budget(self, state: EngineState) -> int:
        """The largest number of rows of prompts for a step that begins now.

        It is 0 where a step of prompts alone would delay sessions that decode and are about to come.
        """
        seconds_left = None if state.n_decoding else state.next_due
        if state.shares_cores and seconds_left is not None and seconds_left < _EXPECTED_WITHIN:
            seconds_left = 0.0
        return self.step_cost.prefill_budget(state.n_prefilling, self._n_decoding(state), seconds_left)

    def prefill_chunk_size(self, state: EngineState) -> int:
        """Rows that the next step with prompts takes: the one with the next tokens, where none may begin before."""
        budget = self.prefill_budget(state)
        return budget or self.step_cost.prefill_budget(state.n_prefilling, self._n_decoding(state))

    def decide(self, state: EngineState) -> StepDecision:
        """How long to wait for sessions that are about to decode.

        A step of few rows takes nearly as long as one of many, because it reads all the weights. So the first sessions
        wait for the others, at most as long as a step takes: a session that is left behind would wait for a whole one,
        in each round again. Prompts wait for sessions that decode, to share a step with them.
        """
        budget = self.prefill_budget(state)
        if not state.n_decoding:
            return StepDecision(0.0 if budget else state.next_due or 0.0, budget)
        if not self.is_batched:
            return StepDecision(0.0, budget)
        seconds = self.step_cost.estimate(budget if state.n_prefilling else 0)
        latest = (state.waiting_since or state.now) + seconds
        return StepDecision(self.arrivals.wait(state.now, latest), budget)

    def _n_decoding(self, state: EngineState) -> int:
        """Sessions that decode, or are about to."""
        return state.n_decoding + self.arrivals.n_outstanding(state.now, _EXPECTED_WITHIN)
