"""From a checkpoint, a sepweight directory or saved parts to bottom, trunk and top models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from llm_sepweight.layout import MANIFEST_FILE
from splitlearn.checkpoints.folder import find_checkpoint, read_config
from splitlearn.checkpoints.load import fill, resolve_device, resolve_dtype
from splitlearn.checkpoints.quantized import refuse_declared, refuse_given
from splitlearn.checkpoints.reader import read_tensors
from splitlearn.checkpoints.sources import WholeModel, open_checkpoint, open_sepweight
from splitlearn.errors import BadCheckpoint, BadPlan, BadRegistration, UnsupportedModel
from splitlearn.hf.attention_interface import choose_attention
from splitlearn.model.architectures import is_known
from splitlearn.model.layout import config_from_dict
from splitlearn.model.part import cut
from splitlearn.model.plan import SplitPlan
from splitlearn.split_models import split_class
from splitlearn.split_models.base import BaseSplitModel
from splitlearn.split_models.causal_lm import CausalLMPart, layer_count
from splitlearn.split_models.registry import PARTS
from splitlearn.split_models.saving import SavedPart, read_weights


@dataclass(frozen=True)
class _Wish:
    """How the models are to be made, whatever they are made from."""

    model_type: str | None
    split_points: tuple[int | None, int | None]
    parts: tuple[str, ...]
    device: str
    dtype: torch.dtype | None
    attention: str | None

    def settled_type(self, found: object) -> str:
        """The model type that the model's config tells, or the one asked for where it tells none."""
        if self.model_type is not None and found is not None and found != self.model_type:
            raise UnsupportedModel(
                f"the model is a {found}, not a {self.model_type}; give model_type={found!r}, or leave it out"
            )
        settled = found or self.model_type
        if settled is None:
            raise UnsupportedModel("the model's config names no model_type; give it")
        return str(settled)

    def plan(self, n_layers: int | None) -> SplitPlan:
        first, last = self.split_points
        if first is None and last is None and n_layers is not None:
            return SplitPlan.parse(None, n_layers)
        if first is None or last is None:
            raise BadPlan("give split_point_1, the trunk's first layer, and split_point_2, the top's first layer")
        return SplitPlan(first, last, last + 1 if n_layers is None else n_layers)


class ModelFactory:
    """Makes the three models; docs/splitlearn.md shows how."""

    @staticmethod
    def create_split_models(
        model_type: str | None = None,
        model_name_or_path: str | Path = "",
        split_point_1: int | None = None,
        split_point_2: int | None = None,
        device: str = "cpu",
        dtype: str | torch.dtype | None = None,
        parts: Sequence[str] = PARTS,
        attn_implementation: str | None = None,
    ) -> tuple[Any, ...]:
        """Cuts a model and loads its parts, each with just its own weights.

        Args:
            model_type: "gpt2", "llama" ... or what was registered; None takes what the model's config says.
            model_name_or_path: a local folder, the id of a model on the Hugging Face hub, or a sepweight directory.
            split_point_1: the trunk's first layer.
            split_point_2: the top's first layer. Without split points a twelfth of the layers stays at each end.
            device: "cpu", "cuda", "cuda:1" ... or "auto".
            dtype: "float32", "bfloat16", "float16" or torch's; None keeps that of the files.
            parts: which of "bottom", "trunk" and "top" are wanted, in this order.
            attn_implementation: what transformers calls it, for example "eager" or "sdpa".

        Returns:
            One model per part, in evaluation mode, without gradients. Tied tensors are shared between them.

        Raises:
            UnsupportedModel: an architecture that cannot be cut, is another than `model_type`, or is unknown; or the
                weights are quantised.
            BadRegistration: a registered class that makes something else than its part.
            BadCheckpoint, BadPlan, BadDevice: see `splitlearn.errors`.
            SepweightError: see `llm_sepweight.errors`.
        """
        if not str(model_name_or_path):
            raise BadCheckpoint("no model was named; give model_name_or_path")
        if not set(parts) <= set(PARTS):
            raise BadPlan(f"parts are {', '.join(PARTS)}; found {', '.join(parts)}")
        points = (split_point_1, split_point_2)
        wish = _Wish(model_type, points, tuple(parts), resolve_device(device), _dtype(dtype), attn_implementation)
        path = Path(model_name_or_path)
        if (path / MANIFEST_FILE).exists():
            return _from_whole(open_sepweight(path), wish)
        folder = find_checkpoint(str(model_name_or_path))
        values = read_config(folder)
        known = wish.settled_type(values.get("model_type"))
        if all(issubclass(split_class(known, part), CausalLMPart) for part in parts):
            return _from_whole(open_checkpoint(str(folder)), wish)
        return _from_registered(folder, {**values, "model_type": known}, wish)

    @staticmethod
    def load_split_model(path: str | Path, device: str = "cpu", dtype: str | torch.dtype | None = None) -> Any:
        """A part that `save_split_model` wrote, from the weights at `path` and the metadata beside them alone.

        `device` and `dtype` are those of `create_split_models`.

        Raises:
            BadCheckpoint: metadata missing or damaged, or weights that do not fit them.
            UnsupportedModel: the model type is neither registered nor one of transformers, or the weights are
                quantised.
            FileError: weights that cannot be read, see `llm_sepweight.errors`.
        """
        weights = Path(path)
        saved = SavedPart.read(weights)
        split = split_class(saved.model_type, saved.part)
        config = _config({**saved.config, "model_type": saved.model_type})
        layers = _layers(saved.part, saved.start_layer, saved.end_layer)
        tensors = read_weights(weights)
        if issubclass(split, CausalLMPart):
            filled: Any = split
            return filled.from_pretrained_split(
                tensors, config, **layers, device=resolve_device(device), dtype=_dtype(dtype)
            )
        model = split(config, **layers)
        own = model.state_dict()
        refuse_given(str(weights), own, tensors, {name: name for name in own if name in tensors})
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise BadCheckpoint(f"{weights} does not fit its metadata: {error}") from error
        return _settled(model, resolve_device(device), _dtype(dtype))


def _from_whole(whole: WholeModel, wish: _Wish) -> tuple[Any, ...]:
    dtype = wish.dtype or resolve_dtype(whole.dtype)
    device = torch.device(wish.device)
    # transformers makes derived buffers in the config's dtype
    values = {**whole.config, "dtype": str(dtype).removeprefix("torch.")}
    config = config_from_dict(values)
    model_type = wish.settled_type(config.model_type)
    plan = wish.plan(layer_count(config))
    models = []
    for name in wish.parts:
        split: Any = split_class(model_type, name)
        if not issubclass(split, CausalLMPart):
            raise UnsupportedModel(f"{split.__name__} takes its weights from a checkpoint, not a sepweight directory")
        own_config = config_from_dict(values)
        if wish.attention is not None:
            choose_attention(own_config, wish.attention)
        spec: Any = getattr(plan, name)
        part = cut(own_config, spec)
        fill(part, whole.weights(spec, device, dtype), device, dtype)
        models.append(split(config, **_layers(name, *_bounds(name, plan)), part=part))
    return tuple(models)


def _from_registered(folder: Path, values: dict[str, Any], wish: _Wish) -> tuple[Any, ...]:
    config = _config(values)
    if wish.attention is not None:
        choose_attention(config, wish.attention)
    refuse_declared(str(folder), values, folder)
    plan = wish.plan(getattr(config, "num_hidden_layers", None))
    full_state_dict = read_tensors(folder)
    models = []
    for name in wish.parts:
        split: Any = split_class(values["model_type"], name)
        made = split.from_pretrained_split(
            full_state_dict=full_state_dict, config=config, **_layers(name, *_bounds(name, plan))
        )
        if not isinstance(made, split):
            raise BadRegistration(
                f"{split.__name__}.from_pretrained_split returned {type(made).__name__}; it must return the model"
            )
        models.append(_settled(made, wish.device, wish.dtype))
    return tuple(models)


def _settled(model: BaseSplitModel, device: str, dtype: torch.dtype | None) -> BaseSplitModel:
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)


def _bounds(part: str, plan: SplitPlan) -> tuple[int, int]:
    return {"bottom": (0, plan.first), "trunk": (plan.first, plan.last), "top": (plan.last, plan.n_layers)}[part]


def _layers(part: str, start_layer: int, end_layer: int | None) -> dict[str, Any]:
    """The arguments of a part's constructor that say which layers are its own."""
    ends = {"start_layer": start_layer, "end_layer": end_layer}
    unused = {"bottom": "start_layer", "top": "end_layer"}.get(part)
    return {name: layer for name, layer in ends.items() if name != unused}


def _config(values: dict[str, Any]) -> Any:
    """The config that transformers has for the model type, else a plain object with these values."""
    return config_from_dict(values) if is_known(values["model_type"]) else SimpleNamespace(**values)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    return resolve_dtype(dtype) if isinstance(dtype, str) else dtype
