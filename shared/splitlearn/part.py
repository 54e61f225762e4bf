"""A part: a contiguous range of a causal model's layers, with or without the embeddings before and the head behind.

The part keeps the Hugging Face model's own forward, so masks, rotary tables, scales and soft caps stay where their
authors wrote them. Modules that belong to other parts are replaced by ones that hold nothing, and rows enter at
the first layer and leave after the last, past whatever the forward does before and behind them.

Shapes: T rows, D hidden size, V vocabulary.
"""

import inspect
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from llm_sepweight import PartSpec
from splitlearn.anatomy import Anatomy, build_on_meta, study
from splitlearn.errors import BadPlan


class Part(nn.Module):
    """Runs `spec`'s layers of one model; built on the meta device by `cut`, filled by `splitlearn.loading`."""

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, spec: PartSpec, layers: range) -> None:
        super().__init__()
        self.model = model
        self.anatomy = anatomy
        self.spec = spec
        self.layers = layers
        decoder = model.get_submodule(anatomy.decoder)
        self._border = _Border()
        kept = list(model.get_submodule(anatomy.layers).children())
        if not spec.begin:
            kept[0].register_forward_pre_hook(self._border.enter, with_kwargs=True)
        if not spec.end:
            kept[-1].register_forward_hook(self._border.leave)
        if spec.end:
            model.get_submodule(anatomy.rear[-1]).register_forward_pre_hook(_compact)
        self._takes_positions = "position_ids" in inspect.signature(decoder.forward).parameters

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    @property
    def hidden_size(self) -> int:
        return int(self.config.get_text_config(decoder=True).hidden_size)

    @property
    def context_length(self) -> int | None:
        """The number of positions that the model was made for; None where its config names none."""
        value = getattr(self.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return int(value) if value else None

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def new_cache(self) -> DynamicCache:
        """An empty KV cache for one session.

        Made without the config on purpose: layers with a sliding window then keep all their rows (the mask
        applies the window), which is what makes truncation to any position exact.
        """
        return DynamicCache()

    @torch.inference_mode()
    def forward(self, rows: torch.Tensor, position: int, cache: DynamicCache) -> torch.Tensor:
        """Appends rows to one session.

        Args:
            rows: token ids [T] for a part that begins the model, else hidden states [T, D].
            position: number of rows that the session holds already.
            cache: the session's cache; grows by T rows.

        Returns:
            Hidden states [T, D]; for a part that ends the model the last row's logits [V].
        """
        inputs: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        if self.spec.begin:
            inputs["input_ids"] = rows[None]
        else:
            # only shape, dtype and device matter: the rows themselves enter at the first layer
            inputs["inputs_embeds"] = torch.zeros_like(rows)[None]
            self._border.rows_1TD = rows[None]
        if self._takes_positions:
            inputs["position_ids"] = torch.arange(position, position + rows.shape[0], device=rows.device)[None]
        if self.spec.end:
            logits_1TV = self.model(**inputs, logits_to_keep=1).logits
            return torch.as_tensor(logits_1TV[0, -1])
        self.model.get_submodule(self.anatomy.decoder)(**inputs)
        return self._border.take()[0]


class _Border:
    """Where rows cross from one part to the next; holds them for the length of one forward."""

    def __init__(self) -> None:
        self.rows_1TD: torch.Tensor | None = None

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        """Before the first layer: in place of what the decoder made of its input."""
        rows_1TD = self.take()
        return ((rows_1TD, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": rows_1TD})

    def leave(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        """After the last layer: before the decoder does anything more."""
        self.rows_1TD = output[0] if isinstance(output, tuple) else output

    def take(self) -> torch.Tensor:
        """The rows, which are then gone from here."""
        rows_1TD, self.rows_1TD = self.rows_1TD, None
        return torch.as_tensor(rows_1TD)


def _compact(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Gives the last row strides of its own.

    Cut out of a prompt [1, T, D] it is [1, 1, D] with the strides of the prompt. That counts as contiguous, but
    torch's matmul then takes a batched path that first copies the whole head's weight.
    """
    return (inputs[0].clone(memory_format=torch.contiguous_format),)


class _AddsNothing(nn.Module):
    """Stands in for a position embedding that an earlier part has added already."""

    def forward(self, *_: object, **__: object) -> torch.Tensor:
        return torch.zeros(())


class _PassesOn(nn.Module):
    """Stands in for a norm or projection that another part applies."""

    def forward(self, hidden: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return hidden


def cut(config: PretrainedConfig, spec: PartSpec) -> Part:
    """The part of a model that `spec` names, on the meta device.

    Raises:
        UnsupportedModel: this architecture cannot be cut.
        BadPlan: the part's layers are not one contiguous range, or there are none.
    """
    model = build_on_meta(config)
    anatomy = study(model)
    indices = spec.layer_indices(anatomy.n_layers)
    layers = range(indices[0], indices[-1] + 1) if indices else range(0)
    if len(layers) != len(indices):
        raise BadPlan(f"a part runs one contiguous range of layers, not {spec}")
    spec = PartSpec(begin=spec.begin or spec.full, layers=(layers,), end=spec.end or spec.full)
    _keep_layers(model, anatomy, layers)
    if not spec.begin:
        for path in anatomy.front:
            _replace(model, path, _AddsNothing if _is_embedding(model, path) else _PassesOn)
    if not spec.end:
        for path in anatomy.rear:
            _replace(model, path, _PassesOn)
    return Part(model, anatomy, spec, layers)


def _keep_layers(model: PreTrainedModel, anatomy: Anatomy, layers: range) -> None:
    whole = model.get_submodule(anatomy.layers)
    kept = nn.ModuleList([whole.get_submodule(str(i)) for i in layers])
    for module in kept.modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int):
            setattr(module, "layer_idx", index - layers.start)  # noqa: B010 (not a field that nn.Module declares)
    model.set_submodule(anatomy.layers, kept)
    for config in {id(c): c for c in (model.config, model.config.get_text_config(decoder=True))}.values():
        for name, value in vars(config).items():
            if isinstance(value, list | tuple) and len(value) == anatomy.n_layers:
                setattr(config, name, value[layers.start : layers.stop])
        config.num_hidden_layers = len(layers)


def _is_embedding(model: PreTrainedModel, path: str) -> bool:
    return isinstance(model.get_submodule(path), nn.Embedding)


def _replace(model: PreTrainedModel, path: str, stand_in: type[nn.Module]) -> None:
    model.set_submodule(path, stand_in())
