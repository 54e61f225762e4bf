"""Checkpoints with the files of sentence-transformers, and what transformers makes of them.

Shapes: T rows, D hidden size.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel

from splitlearn.checkpoints.convert import prepare
from support.tiny_models import save_checkpoint

MODULES = "sentence_transformers.models"
POOLED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cls": lambda hidden_TD: hidden_TD[0],
    "lasttoken": lambda hidden_TD: hidden_TD[-1],
    "max": lambda hidden_TD: hidden_TD.max(dim=0).values,
    "mean": lambda hidden_TD: hidden_TD.mean(dim=0),
    "mean_sqrt_len_tokens": lambda hidden_TD: hidden_TD.sum(dim=0) / len(hidden_TD) ** 0.5,
    "weightedmean": lambda hidden_TD: (
        torch.arange(1, len(hidden_TD) + 1).float() @ hidden_TD / sum(range(1, len(hidden_TD) + 1))
    ),
}
"""By hand, by the names of modes."""


def write_modules(
    folder: Path, kinds: Sequence[str], pooling: dict[str, Any], prompts: dict[str, Any] | None = None
) -> None:
    """The files beside a checkpoint: modules of these kinds, the pooling's config, the prompts."""
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"{MODULES}.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    place = folder / f"{kinds.index('Pooling')}_Pooling"
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(pooling))
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))


def save_embedding_model(
    folder: Path,
    model: PreTrainedModel,
    kinds: Sequence[str],
    pooling: dict[str, Any],
    prompts: dict[str, Any] | None = None,
) -> Path:
    """The model as a sepweight directory `folder/tiny`, made of a checkpoint with these modules."""
    checkpoint = save_checkpoint(folder / "checkpoint", model)
    write_modules(checkpoint, kinds, pooling, prompts)
    prepare(str(checkpoint)).write(folder / "tiny")
    return folder / "tiny"


@torch.inference_mode()
def hidden_states(checkpoint: Path, ids: Sequence[int]) -> torch.Tensor:
    """`last_hidden_state` [T, D] of transformers' own AutoModel, in fp32."""
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    found: torch.Tensor = model(torch.tensor([list(ids)])).last_hidden_state[0]
    return found
