"""The bottom and top that a client has of a model with a remote trunk, and the model with a shadow between them.

Shapes: B rows, T positions, N predicting positions, D hidden size, V vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from cleangpt.data.batches import Batch
from cleangpt.distillation.text import predicting
from cleangpt.errors import TrunkMismatchError
from cleangpt.model.shadow import Shadow
from cleangpt.trainers.causal_logits import check_ids, head_reads_only
from llm_sepweight import Manifest
from splitlearn.checkpoints.load import load_parts
from splitlearn.model.cache import PartCache
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan, fingerprint


@dataclass(frozen=True, eq=False)
class Ends:
    """Bottom and top of one model. A trunk or shadow that fits between them has the same `fingerprint`."""

    bottom: Part
    top: Part
    fingerprint: str

    @classmethod
    def load(cls, folder: Path | str, layers: str | None = None, *, dtype: str = "float32", trunk: str = "") -> Self:
        """Loads both from a sepweight directory, which need not contain the trunk's files.

        Args:
            layers: the trunk's layers, such as "2-22"; None means the default cut.
            dtype: the dtype that bottom and top compute in.
            trunk: the dtype that the trunk computes in, part of the fingerprint; empty means that of the files.

        Raises:
            SepweightError, SplitError: files are missing, or the model does not have these layers.
        """
        manifest = Manifest.read(Path(folder))
        plan = SplitPlan.parse(layers, manifest.n_layers)
        bottom, top = load_parts(folder, [plan.bottom, plan.top], dtype=dtype)
        return cls(bottom, top, fingerprint(manifest, plan, trunk or manifest.dtype))

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """The hidden states that the bottom sends to a trunk, [B, T, D], without gradients. Raises BadInputError."""
        check_ids(self.bottom.model, ids_BT)
        with torch.no_grad():
            return torch.as_tensor(self.bottom.run(ids_BT))

    def logits(self, hidden_BTD: Tensor, batch: Batch) -> Tensor:
        """The top's logits for a trunk's or shadow's rows, at the predicting positions, [N, V]."""
        with head_reads_only(self.top.model.get_output_embeddings(), predicting(batch)):
            return torch.as_tensor(self.top.run(hidden_BTD.to(self.top.dtype)).logits)

    def check(self, found: str, what: str) -> None:
        """Raises TrunkMismatchError if the fingerprint `found` differs."""
        if found != self.fingerprint:
            raise TrunkMismatchError(
                f"{what} is for [{found}], bottom and top are of [{self.fingerprint}]; "
                "give both the same weights, layers and dtype"
            )


@dataclass(frozen=True)
class ShadowedCache:
    """The caches of all three parts for one session."""

    bottom: PartCache
    shadow: PartCache
    top: PartCache

    @property
    def n_rows(self) -> int:
        """The number of rows in the session."""
        return self.bottom.n_rows


class ShadowedModel:
    """Bottom, shadow and top as one model, entirely on this machine.

    Raises:
        TrunkMismatchError: the shadow was fitted for other ends.
    """

    def __init__(self, ends: Ends, shadow: Shadow) -> None:
        ends.check(shadow.config.fingerprint, "the shadow")
        self._ends = ends
        self._shadow = shadow.eval()

    def logits(self, batch: Batch) -> Tensor:
        """The logits at the predicting positions, [N, V], without gradients."""
        with torch.no_grad():
            hidden_BTD = self._ends.hidden(batch.ids_BT).to(self._shadow.dtype)
            return self._ends.logits(self._shadow(hidden_BTD), batch)

    def new_cache(self) -> ShadowedCache:
        """An empty cache for one session."""
        return ShadowedCache(self._ends.bottom.new_cache(), self._shadow.new_cache(), self._ends.top.new_cache())

    @torch.inference_mode()
    def step(self, ids_T: Tensor, cache: ShadowedCache) -> Tensor:
        """Appends ids [T] to a session; returns the last one's logits [V]."""
        position = cache.n_rows
        hidden_TD = self._ends.bottom(ids_T, position, cache.bottom).to(self._shadow.dtype)
        hidden_TD = self._shadow(hidden_TD[None], cache.shadow)[0].to(self._ends.top.dtype)
        return torch.as_tensor(self._ends.top(hidden_TD, position, cache.top))
