"""Where a model is cut, and the line of text both ends compare before the first token.

Pure: no tensors, no files.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Self

from llm_sepweight import Manifest, PartSpec
from splitlearn.errors import BadPlan

# Of a commit or a digest as many digits as people compare.
_SHOWN = 12
FEWEST_LAYERS = 3
"""One for the trunk, and one at each end for the client."""


@dataclass(frozen=True)
class SplitPlan:
    """Layers `first` up to, not including, `last` belong to the trunk; the rest stays with the client.

    The client keeps at least one layer at each end: rows that come straight from the embeddings name their tokens
    by a table look-up, and rows that go straight to the head are logits to anybody who knows the head.

    Raises:
        BadPlan: the cut points are not `1 <= first < last <= n_layers - 1`.
    """

    first: int
    last: int
    n_layers: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last <= self.n_layers:
            raise BadPlan(
                f"layers {self.first}-{self.last} do not exist in a model of {self.n_layers} layers; "
                f"give START-END with 1 <= START < END <= {self.n_layers - 1} (END is not included)"
            )
        if self.first == 0 or self.last == self.n_layers:
            raise BadPlan(
                f"layers {self.first}-{self.last} of {self.n_layers} leave the client none at one end, and the trunk "
                f"could read off the tokens; give START-END with 1 <= START < END <= {self.n_layers - 1}"
            )

    @classmethod
    def parse(cls, layers: str | None, n_layers: int) -> Self:
        """Reads "2-22"; None gives the default cut, a twelfth of the layers (at least one) at each end."""
        if layers is None:
            if n_layers < FEWEST_LAYERS:
                raise BadPlan(
                    f"a model of {n_layers} layers has no middle to give away; it needs at least {FEWEST_LAYERS}"
                )
            ends = max(1, n_layers // 12)
            return cls(ends, n_layers - ends, n_layers)
        match = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", layers)
        if match is None:
            raise BadPlan(f"cannot read layers {layers!r}; write START-END, for example 2-22")
        return cls(int(match[1]), int(match[2]), n_layers)

    @classmethod
    def of_fingerprint(cls, line: str) -> Self:
        """The cut in the line that `fingerprint` gives. Raises BadPlan for any other text."""
        match = re.search(r" layers (\d+-\d+) of (\d{1,9}) \S+$", line)
        if match is None:
            raise BadPlan(f"[{line}] is no fingerprint: it names no layers")
        return cls.parse(match[1], int(match[2]))

    @property
    def layers(self) -> str:
        """The trunk's range as it is written on the command line, for example "2-22"."""
        return f"{self.first}-{self.last}"

    @property
    def bottom(self) -> PartSpec:
        """Embeddings and the layers before the trunk."""
        return PartSpec(begin=True, layers=(range(self.first),), end=False)

    @property
    def trunk(self) -> PartSpec:
        """The middle layers."""
        return PartSpec(begin=False, layers=(range(self.first, self.last),), end=False)

    @property
    def top(self) -> PartSpec:
        """The layers after the trunk, final norm and LM head."""
        return PartSpec(begin=False, layers=(range(self.last, self.n_layers),), end=True)


def fingerprint(manifest: Manifest, plan: SplitPlan, dtype: str) -> str:
    """One readable line that is equal on both ends exactly when they mean the same trunk.

    It names the model, what it was made of if its manifest has an origin, the first 16 hex digits of a digest over the
    trunk's weights (or that origin) and config, the cut and the dtype of the hidden states. Bottom and top are the
    client's own business: whatever they are, they work with this trunk.

    Raises:
        SepweightError: the manifest does not list the trunk's layers.
    """
    name = manifest.model_name or "unnamed"
    origin = "".join(f" {field} {value[:_SHOWN]}" for field, value in (manifest.origin or {}).items())
    config = json.dumps(manifest.config, sort_keys=True)
    digest = hashlib.sha256(f"{manifest.digest_of(plan.trunk)} {config}".encode()).hexdigest()
    return f"{name}{origin} weights {digest[:16]} layers {plan.layers} of {plan.n_layers} {dtype}"
