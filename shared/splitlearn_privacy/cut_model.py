"""A model in three parts, and what the worker that has the middle one sees.

Shapes: N texts, T tokens of each, D hidden size, W width of what is seen at a position, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from llm_sepweight import Manifest, PartSpec
from splitlearn.checkpoints.load import load_parts, resolve_dtype
from splitlearn.model.cache import PartCache
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from splitlearn_privacy.wire import Distortion


class Seen(StrEnum):
    """What a worker sees of each position."""

    OUTGOING = "outgoing"
    """The row that the client sends."""
    CACHE = "kv-cache"
    """The keys and values of the trunk's first layer."""
    RETURNED = "returned"
    """The row that the worker computes and sends back."""


@dataclass(frozen=True, eq=False)
class CutModel:
    """Bottom, trunk and top of one model, all on this machine, in float32. Rows between them are rounded to `dtype`."""

    TEXTS_AT_ONCE: ClassVar = 16

    plan: SplitPlan
    bottom: Part
    trunk: Part
    top: Part
    first: Part
    """The trunk's first layer alone, with the same weights."""
    dtype: torch.dtype

    @classmethod
    def load(cls, folder: Path, layers: str | None) -> Self:
        """Loads a sepweight directory.

        Args:
            layers: the trunk's, such as "2-22"; None means the default cut.

        Raises:
            SepweightError, SplitError: files are missing, or the model cannot be cut so.
        """
        manifest = Manifest.read(folder)
        plan = SplitPlan.parse(layers, manifest.n_layers)
        first = PartSpec.of(f"{plan.first}-{plan.first + 1}")
        parts = load_parts(folder, [plan.bottom, plan.trunk, plan.top, first], dtype="float32")
        bottom, trunk, top, first_layer = parts
        return cls(plan, bottom, trunk, top, first_layer, resolve_dtype(manifest.dtype))

    def looks_like(self, other: "CutModel") -> bool:
        """Whether both have as many tokens and layers, rows of one width and dtype, and the same cut."""
        return (self.plan, self.bottom.hidden_size, self.embeddings_VD.shape, self.dtype) == (
            other.plan,
            other.bottom.hidden_size,
            other.embeddings_VD.shape,
            other.dtype,
        )

    @property
    def embeddings_VD(self) -> Tensor:  # noqa: N802 - a shape
        """The table of token embeddings, which is public where the weights are."""
        return torch.as_tensor(self.bottom.model.get_input_embeddings().weight).detach().float()

    @property
    def rows_fit_embeddings(self) -> bool:
        """Whether a row is as wide as an embedding: not where these are projected, or layers keep several streams."""
        return self.bottom.hidden_size == self.embeddings_VD.shape[-1]

    @property
    def kinds(self) -> Sequence[Seen]:
        """What can be measured of this model: a recurrent trunk keeps no keys and values."""
        return list(Seen) if self.trunk.keeps_plain_kv else [Seen.OUTGOING, Seen.RETURNED]

    @torch.no_grad()
    def seen(self, ids_NT: Tensor, distortion: Distortion, seed: int = 0) -> dict[Seen, Tensor]:
        """What the worker sees of texts, each [N, T, W], in float32."""
        found: dict[Seen, list[Tensor]] = {kind: [] for kind in self.kinds}
        for number, some_NT in enumerate(torch.split(ids_NT, self.TEXTS_AT_ONCE)):
            outgoing_NTD = distortion.of(self.sent(some_NT), seed + number)
            for kind in found:
                found[kind].append(self.of_sent(kind, outgoing_NTD))
        return {kind: torch.cat(pieces) for kind, pieces in found.items()}

    def sent(self, ids_NT: Tensor, cache: PartCache | None = None) -> Tensor:
        """The rows [N, T, D] that the bottom makes of ids; they follow those in the cache."""
        cache = self.bottom.new_cache() if cache is None else cache
        return torch.as_tensor(self.bottom.run(ids_NT, past_key_values=cache)).to(self.dtype)

    def returned(self, rows_NTD: Tensor) -> Tensor:
        """The trunk's rows [N, T, D]."""
        return self.of_sent(Seen.RETURNED, rows_NTD).to(self.dtype)

    def logits(self, rows_NTD: Tensor) -> Tensor:
        """The top's logits [N, T, V]."""
        # with a cache of ours: the one that some models make themselves does not fit a part
        return torch.as_tensor(self.top.run(rows_NTD.float(), past_key_values=self.top.new_cache()).logits)

    def worker_part(self, kind: Seen) -> Part | None:
        """What the worker has to run of its layers before it sees that of rows; None if nothing."""
        return {Seen.OUTGOING: None, Seen.CACHE: self.first, Seen.RETURNED: self.trunk}[kind]

    def of_sent(self, kind: Seen, rows_NTD: Tensor, cache: PartCache | None = None) -> Tensor:
        """What the worker sees of rows that follow those in the cache, which is of `worker_part`: [N, T, W]."""
        part = self.worker_part(kind)
        if part is None:
            return rows_NTD.float()
        cache = part.new_cache() if cache is None else cache
        returned_NTD = torch.as_tensor(part.run(rows_NTD.float(), past_key_values=cache)).to(self.dtype)
        if kind is Seen.RETURNED:
            return returned_NTD.float()
        entry, last_T = cache.layers[0], slice(-rows_NTD.shape[1], None)
        # of [N, heads, T, width of a head]
        pair = [each[:, :, last_T].transpose(1, 2).flatten(2) for each in (entry.keys, entry.values)]
        return torch.cat(pair, dim=-1).float()

    @torch.no_grad()
    def predictions(self, ids_NT: Tensor, distortion: Distortion | None = None, seed: int = 0) -> Iterator[Tensor]:
        """The logits [N, T, V] of some texts at a time, with the codec in both directions."""
        for number, some_NT in enumerate(torch.split(ids_NT, self.TEXTS_AT_ONCE)):
            rows_NTD = self.sent(some_NT)
            if distortion is None:
                yield self.logits(self.returned(rows_NTD))
            else:
                rows_NTD = self.returned(distortion.of(rows_NTD, seed + number))
                yield self.logits(distortion.coded(rows_NTD))
