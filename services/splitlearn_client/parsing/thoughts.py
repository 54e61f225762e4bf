"""What models write around their reasoning.

Pure.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Thoughts:
    """Two markers. `tokens` are the special tokens in them."""

    opening: str
    closing: str

    @property
    def tokens(self) -> tuple[str, ...]:
        """What may be a special token."""
        return (self.opening.removesuffix("thought"), self.closing)

    def is_open(self, ending: str, prefill: str) -> bool:
        """Whether an answer goes on with reasoning.

        Args:
            ending: of the prompt.
            prefill: the assistant's words that the answer goes on with.
        """
        return ending.rstrip().endswith(self.opening) or prefill.rfind(self.opening) > prefill.rfind(self.closing)


THOUGHTS: Final = {
    "think": Thoughts("<think>", "</think>"),
    "mistral": Thoughts("[THINK]", "[/THINK]"),
    "gemma": Thoughts("<|channel>thought", "<channel|>"),
}
"""By the names of the setting; Harmony's channels are read with its calls."""
