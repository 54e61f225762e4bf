"""Tiny checkpoints whose linear layers are quantised, and what a conversion makes of them."""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from llm_sepweight.layout import layer_of
from splitlearn.checkpoints.convert import Conversion, prepare
from splitlearn.checkpoints.load import load_parts
from support.sessions import Chain, Whole
from support.tiny_models import random_model, tiny_config

State = dict[str, torch.Tensor]
Quantize = Callable[[str, torch.Tensor], Mapping[str, torch.Tensor]]

UP = "model.layers.3.mlp.up_proj"
"""A module that is quantised: 96 rows, 64 columns."""


@cache
def tiny_model(model_type: str) -> PreTrainedModel:
    """The model before it is quantised."""
    return random_model(tiny_config(model_type))


def save_quantized(folder: Path, declared: Mapping[str, Any], quantize: Quantize, model_type: str = "llama") -> Path:
    """A tiny model of whose linear layers, but for the head, each weight is replaced.

    Args:
        declared: the config's quantization_config.
        quantize: the tensors in place of a weight, by what follows the module's name. Given that name and the weight.
    """
    tiny_model(model_type).save_pretrained(folder)
    torch.manual_seed(0)
    declare(folder, declared)

    def change(state: State) -> None:
        for key in [key for key in state if _LINEAR.search(key)]:
            module = key.removesuffix(".weight")
            made = quantize(module, state.pop(key))
            state |= {f"{module}.{name}": tensor for name, tensor in made.items()}

    edit(folder, change)
    return folder


def declare(folder: Path, declared: Mapping[str, Any] | None, **fields: Any) -> None:
    """Writes the config's quantization_config, and other fields."""
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "quantization_config": declared, **fields}))


def edit(folder: Path, change: Callable[[State], None]) -> None:
    """Lets a test change the tensors of a checkpoint."""
    state = load_file(folder / "model.safetensors")
    change(state)
    whole = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})


def converted(folder: Path, dtype: str | None = None) -> State:
    """What a conversion would write, by the names of a model with a decoder `model`."""
    return written(prepare(str(folder), dtype=dtype))


def written(conversion: Conversion) -> State:
    """As `converted`."""
    state = {}
    for section, tensors in conversion.sections.items():
        layer = layer_of(section)
        prefix = "model." if layer is None else f"model.layers.{layer}."
        for source in tensors:
            name = source.name if source.name.startswith("lm_head") else prefix + source.name
            state[name] = source.read().to(source.dtype)
            assert tuple(state[name].shape) == source.shape
    return state


def assert_same(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """To the bit, and with the same dtypes."""
    assert state.keys() == expected.keys()
    different = [
        name
        for name in state
        if state[name].dtype != expected[name].dtype or not torch.equal(state[name], expected[name])
    ]
    assert not different


def logits_after_conversion(folder: Path, out: Path) -> torch.Tensor:
    """Of the last of a few ids, from the three parts of the directory that a conversion writes."""
    manifest = prepare(str(folder)).write(out)
    assert "quantization_config" not in manifest.config
    parts = load_parts(out, ["b 0-1", "1-2", f"2-{manifest.n_layers} e"])
    return Chain(parts).append(_IDS)


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    """Likewise of a whole model."""
    return Whole(model).append(_IDS)


_LINEAR = re.compile(r"(_proj|\.w[123])\.weight$")
_IDS = torch.tensor([5, 9, 200, 31, 7, 64])
