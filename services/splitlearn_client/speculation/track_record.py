"""How a drafter does in one answer, and whether to ask it. Plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from splitlearn_client.speculation.acceptance import Seen, of_one_answer
from splitlearn_client.speculation.draft_length import DraftLength
from splitlearn_client.speculation.drafter import LEVELS, Guess
from splitlearn_client.speculation.trip_cost import DraftCost

_ASKED_AGAIN: Final = 32
"""Trips after which a drafter is asked that costs more than it saved, or promises less than another one's guesses."""


@dataclass
class TrackRecord:
    """Of one drafter in one answer.

    Attributes:
        cost: what a guess takes to make, in all answers.
        typical: how often guesses are right in all answers.
        made: guesses at what follows the newest token, whether they are sent or not.
    """

    cost: DraftCost
    typical: Seen
    made: list[Guess] = field(default_factory=list)
    _acceptance: Seen = field(init=False)
    _n_skipped: int = 0

    def __post_init__(self) -> None:
        self._acceptance = of_one_answer(self.typical)

    def rank(self, draft: DraftLength) -> tuple[bool, float]:
        """Drafters are asked from the highest rank down: first those that cost nothing, then those that promise most.

        Args:
            draft: for this drafter's guesses, still empty.
        """
        return self._is_free, self._promise(draft)

    def is_asked(self, draft: DraftLength, best: DraftLength | None) -> bool:
        """Whether asking the drafter saves as much time as it takes, or it is time to see whether it does.

        It does where a first guess is right often enough, the surest guesses would be sent, and more is expected of
        them than of others that are there.

        Args:
            draft: for its guesses, still empty.
            best: the best of other drafters' guesses; None if none of theirs pay.
        """
        surest = max(self._acceptance.probability(level) for level in range(LEVELS))
        saved = self._acceptance.overall * draft.seconds(0)
        pays = saved >= self.cost.seconds and replace(draft).takes(surest)
        is_better = best is None or self._is_free or self._promise(draft) > best.rate
        if (pays and is_better) or self.is_due:
            self._n_skipped = 0
            return True
        self._n_skipped += 1
        return False

    @property
    def is_due(self) -> bool:
        """Whether the drafter will be asked next, whatever it costs and promises."""
        return self._n_skipped == _ASKED_AGAIN

    def is_taken(self, guess: Guess, draft: DraftLength) -> bool:
        """Takes note of a guess that was made. Whether it is to be sent too, and another one is of use."""
        self.cost.learn(guess.seconds)
        self.made.append(guess)
        return draft.takes(self._acceptance.probability(guess.level)) and draft.length < draft.most

    def learn(self, tokens: Sequence[int]) -> None:
        """These tokens were chosen next. They say how good the guesses were, whether those ran or not."""
        for guess, token in zip(self.made, tokens, strict=False):
            right = guess.token == token
            for acceptance in (self._acceptance, self.typical):
                acceptance.learn(guess.level, right=right)
            if not right:
                break

    @property
    def _is_free(self) -> bool:
        """Also before it was measured."""
        return not self.cost.seconds

    def _promise(self, draft: DraftLength) -> float:
        """Tokens a second, if guesses are right as often as they mostly were."""
        draft = replace(draft)
        while draft.takes(self._acceptance.forecast) and draft.length < draft.most:
            pass
        return draft.rate
