"""The sampling parameters: plain values, without torch."""

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Final

from cleangpt.errors import GenerationSettingsError

# logits are divided by these, in 32 bits
_LEAST_DIVISOR: Final = 1e-30
MOST_BEAMS: Final = 1024
"""Each beam is a row of its own, with keys and values of its own."""
_RULES: Final = ("top_k", "top_p", "min_p", "typical_p")


@dataclass(frozen=True)
class Sampling:
    """The parameters of `run_generation`. None disables a rule.

    `temperature` 0 takes the likeliest id. None means 1 if one of the next four rules is given, and 0 otherwise.
    `top_k` keeps the k likeliest ids, `top_p` the smallest set of likeliest ids with at least that total probability,
    `min_p` the ids with at least that share of the top id's probability, `typical_p` the ids whose surprise is closest
    to the expected one. `repetition_penalty` above 1 makes ids that occurred before less likely. `num_beams` above 1
    searches that many texts in parallel, at most `MOST_BEAMS`. With `seed` None, torch's global generator is used.
    `slide` lets a text go on behind the model's last position: see `cleangpt.inference.windows`.

    Raises:
        GenerationSettingsError: a value is out of range, or temperature 0 leaves a rule nothing to choose from.
    """

    max_new_tokens: int = 50
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    num_beams: int = 1
    seed: int | None = None
    slide: bool = True

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "top_k", "seed"):
            value = getattr(self, name)
            self._check(name, "a whole number", value is None or isinstance(value, Integral))
        for name in ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty"):
            value = getattr(self, name)
            self._check(name, "a number", value is None or isinstance(value, Real))
        self._check("max_new_tokens", "1 or more", self.max_new_tokens >= 1)
        self._check("num_beams", f"between 1 and {MOST_BEAMS}", 1 <= self.num_beams <= MOST_BEAMS)
        self._check_divisor("temperature", "a finite number of 0 or more", self.temperature or 1.0)
        self._check("top_k", "1 or more", self.top_k is None or self.top_k >= 1)
        self._check("top_p", "above 0 and at most 1", self.top_p is None or 0 < self.top_p <= 1)
        self._check("min_p", "between 0 and 1", self.min_p is None or 0 <= self.min_p <= 1)
        self._check("typical_p", "above 0 and at most 1", self.typical_p is None or 0 < self.typical_p <= 1)
        self._check_divisor("repetition_penalty", "a finite number above 0", self.repetition_penalty)
        self._check("seed", "0 or more", self.seed is None or self.seed >= 0)
        if self.temperature == 0 and self._given:
            raise GenerationSettingsError(
                f"temperature 0 takes the likeliest id, which {', '.join(self._given)} cannot change; "
                "leave the one or the other out"
            )

    @property
    def is_random(self) -> bool:
        """Whether ids are sampled."""
        return self._heat > 0

    @property
    def rules(self) -> dict[str, Any]:
        """The fields of transformers' GenerationConfig.

        Disabled rules are set to neutral values: transformers fills in None from the model's own config.
        """
        found: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
            "repetition_penalty": float(self.repetition_penalty),
            "do_sample": self.is_random,
        }
        if self.is_random:
            found |= {
                "temperature": self._heat,
                "top_k": self.top_k or 0,
                "top_p": 1.0 if self.top_p is None else float(self.top_p),
                "min_p": self.min_p or 0.0,
                "typical_p": 1.0 if self.typical_p is None else float(self.typical_p),
            }
        return found

    @property
    def _given(self) -> list[str]:
        return [name for name in _RULES if getattr(self, name) is not None]

    @property
    def _heat(self) -> float:
        if self.temperature is not None:
            return float(self.temperature)
        return 1.0 if self._given else 0.0

    def _check_divisor(self, name: str, wanted: str, value: float) -> None:
        self._check(name, wanted, 0 < value < float("inf"))
        self._check(name, f"{wanted}, and at least {_LEAST_DIVISOR:g} if it is above 0", value >= _LEAST_DIVISOR)

    def _check(self, name: str, wanted: str, is_right: bool) -> None:
        if not is_right:
            raise GenerationSettingsError(f"{name} has to be {wanted}, found {getattr(self, name)!r}")
