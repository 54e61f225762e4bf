"""A part: a contiguous range of a causal model's layers, with or without the embeddings before and the head behind.

The part keeps the Hugging Face model's own forward, so masks, rotary tables, scales and soft caps stay where their
authors wrote them. Modules that belong to other parts are replaced by ones that hold nothing, and rows enter at
the first layer and leave after the last, past whatever the forward does before and behind them.

Shapes: B sequences, T rows, D hidden size, V vocabulary.
"""

import copy
import inspect
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from llm_sepweight import PartSpec
from splitlearn.errors import BadPlan, BadRows
from splitlearn.hf.cache import CACHE_NAME, cache_argument
from splitlearn.hf.modeling import hidden_in, with_hidden
from splitlearn.model.cache import CacheLayerSpec, PartCache, cache_layer_specs
from splitlearn.model.context import context_length
from splitlearn.model.layout import ModelLayout, build_on_meta, inspect_model, leave_out
from splitlearn.model.slicing import slice_config
from splitlearn.model.traits import row_width, takes_one_row_at_a_time, why_not_here
from splitlearn.torch_private import own_modules, own_parameters

Wanted = Literal["none", "last", "all", "hidden"]
"""What a part that ends the model gives for new rows: no logits, those of the last row or of all rows, or the hidden
states of all rows behind the final norm, before the head."""


class Part(nn.Module):
    """Runs `spec`'s layers of one model; built on the meta device by `cut`, filled by `splitlearn.checkpoints.load`."""

    _row: torch.Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        layout: ModelLayout,
        spec: PartSpec,
        layers: range,
        cache_specs: Sequence[CacheLayerSpec],
        context_length: int | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.layout = layout
        self.spec = spec
        self.layers = layers
        self.context_length = context_length
        """The number of positions that the whole model has; None where it has no end."""
        # a buffer: what casts a module, casts it
        self.register_buffer("_row", torch.empty(0, dtype=model.dtype), persistent=False)
        self._cache_specs = cache_specs
        decoder = model.get_submodule(layout.decoder)
        self._boundary = _Boundary()
        kept = list(model.get_submodule(layout.layers).children())
        own_hooks = []
        if not spec.begin:
            own_hooks.append(kept[0].register_forward_pre_hook(self._boundary.enter, with_kwargs=True))
        if not spec.end:
            own_hooks.append(kept[-1].register_forward_hook(self._boundary.leave))
        if spec.end:
            head = model.get_submodule(layout.suffix_modules[-1])
            own_hooks.append(head.register_forward_pre_hook(_compact))
            own_hooks.append(decoder.register_forward_hook(self._boundary.note_last))
        self.screens_head = False
        """Whether its runners may keep the head's weight in 8 bits too, for steps that need few logits."""
        self.n_own_hooks = len(own_hooks)
        """Hooks on the modules inside that belong to the part itself."""
        arguments = inspect.signature(decoder.forward).parameters
        counts_itself = any(
            hasattr(kind, "create_position_ids_from_input_ids") for kind in {type(m) for m in decoder.modules()}
        )
        self.takes_positions = "position_ids" in arguments and not counts_itself
        self._takes_cache_as = cache_argument(decoder.forward) or CACHE_NAME
        self._embedding_width: int = model.config.get_text_config(decoder=True).hidden_size
        self.hidden_size: int = row_width(model.config)
        """Numbers in a row; more than the config's own hidden size where layers keep several streams."""
        self._takes_one_row = takes_one_row_at_a_time(model.config)
        self.keeps_last_rows = "logits_to_keep" in inspect.signature(model.forward).parameters

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of rows; set when the part is filled. Some weights stay in fp32 whatever it is."""
        return self._row.dtype

    @dtype.setter
    def dtype(self, dtype: torch.dtype) -> None:
        self._row = self._row.to(dtype)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def can_truncate(self) -> bool:
        """Whether a session can go back to an earlier position. Layers with a recurrent state cannot."""
        return all(kind.can_truncate for kind in self._cache_specs)

    @property
    def keeps_plain_kv(self) -> bool:
        """Whether every layer keeps keys and values as they come, and nothing else."""
        return all(kind.keeps_plain_kv for kind in self._cache_specs)

    def before_the_layers(self) -> list[tuple[nn.Module, nn.Module]]:
        """The modules before the layers, and what stands in for each where rows enter at the first layer."""
        found = _before_the_layers(self.model, self.layout) if self.spec.begin else ()
        return [(self.model.get_submodule(path), stand_in) for path, stand_in in found]

    def new_cache(self) -> PartCache:
        """An empty cache for one session."""
        return PartCache(self._cache_specs)

    @torch.inference_mode()
    def forward(self, rows: torch.Tensor, position: int, cache: PartCache, *, wanted: Wanted = "last") -> torch.Tensor:
        """Appends rows to one session.

        Args:
            rows: token ids [T] for a part that begins the model, else hidden states [T, D].
            position: number of rows that the session holds already.
            cache: the session's cache; grows by T rows.
            wanted: what a part that ends the model returns.

        Returns:
            Hidden states [T, D]; for a part that ends the model the last row's logits [V], [T, V] of all rows, or the
            hidden states [T, D] that the head would get.
        """
        if position and rows.shape[0] > 1 and self._takes_one_row:
            each = [rows[i : i + 1] for i in range(rows.shape[0])]
            outputs = [self.forward(row, position + i, cache, wanted=wanted) for i, row in enumerate(each)]
            return torch.cat(outputs) if wanted in ("all", "hidden") or not self.spec.end else outputs[-1]
        cache.n_rows = position
        inputs: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        if self.spec.end:
            if self.keeps_last_rows:
                inputs["logits_to_keep"] = rows.shape[0] if wanted == "all" else 1
            if wanted == "hidden":
                return self.run_to_hidden(rows[None], **inputs)[1][0]
            logits_TV = torch.as_tensor(self.run(rows[None], **inputs).logits[0])
            return logits_TV if wanted == "all" else logits_TV[-1]
        return torch.as_tensor(self.run(rows[None], **inputs)[0])

    def run(self, rows_BT: torch.Tensor, **inputs: Any) -> Any:
        """Runs a batch. Several threads may do so at once if each brings its own cache, or none.

        Args:
            rows_BT: token ids [B, T] for a part that begins the model, else hidden states [B, T, D]. Inside
                `BySession.step` hidden states for any.
            inputs: what the model's own forward takes besides, such as attention_mask or past_key_values.

        Returns:
            Hidden states [B, T, D]; for a part that ends the model what its own forward returns, with `logits`.

        Raises:
            BadRows: several rows for a cache that is not empty, where the model goes on one by one only.
        """
        cache = inputs.pop("past_key_values", None)
        inputs = self._inputs(rows_BT, cache, inputs)
        if self.spec.end:
            output = self.model(**inputs)
        else:
            self.model.get_submodule(self.layout.decoder)(**inputs)
            # a residual stream that layers keep in fp32 is rounded where it crosses a cut
            output = self._boundary.take().to(self.dtype)
        if isinstance(cache, PartCache):
            cache.n_rows += rows_BT.shape[1]
        return output

    def run_decoder(self, rows_BT: torch.Tensor, past_key_values: Any, **inputs: Any) -> None:
        """As `run`, but without a head and an output: for what modules note on the way."""
        self.model.get_submodule(self.layout.decoder)(**self._inputs(rows_BT, past_key_values, inputs))
        self._boundary.rows_BTD = None

    def _inputs(self, rows_BT: torch.Tensor, cache: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if self.spec.begin and not rows_BT.is_floating_point():
            inputs["input_ids"] = rows_BT
        else:
            # only shape, dtype and device matter: the rows themselves enter at the first layer
            inputs["inputs_embeds"] = rows_BT.new_zeros(*rows_BT.shape[:2], self._embedding_width)
            self._boundary.rows_BTD = None if self.spec.begin else rows_BT
        if self._takes_one_row and isinstance(cache, PartCache) and cache.n_rows and rows_BT.shape[1] > 1:
            raise BadRows(f"a {self.config.model_type} goes on row by row: give one at a time after the first call")
        if cache is not None:
            inputs[self._takes_cache_as] = cache
        if cache is not None and self.takes_positions and not inputs.keys() & {"position_ids", "attention_mask"}:
            # not every model counts from the rows in its cache when it is not told
            start = cache.n_rows if isinstance(cache, PartCache) else cache.get_seq_length()
            inputs["position_ids"] = torch.arange(start, start + rows_BT.shape[1], device=rows_BT.device)[None]
        return inputs

    def run_to_hidden(self, rows_BT: torch.Tensor, **inputs: Any) -> tuple[Any, torch.Tensor]:
        """As `run`, of a part that ends the model: also the hidden states [B, T, D] of all rows before the head."""
        self._boundary.keeps_last = True
        try:
            output = self.run(rows_BT, **inputs)
        finally:
            self._boundary.keeps_last = False
        return output, self._boundary.take()


class _Boundary(threading.local):
    """Where rows cross from one part to the next; holds them for the length of one forward, for each thread."""

    def __init__(self) -> None:
        self.rows_BTD: torch.Tensor | None = None
        self.keeps_last = False
        """Whether what comes out of the whole model's decoder is kept."""

    def __reduce__(self) -> tuple[type["_Boundary"], tuple[()]]:
        # a copy of a part starts with empty hands; thread-local state cannot be copied
        return _Boundary, ()

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        """Before the first layer: in place of what the decoder made of its input."""
        return with_hidden(self.take().reshape(hidden_in(args, kwargs).shape), args, kwargs)

    def leave(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        """After the last layer: before the decoder does anything more."""
        rows = output[0] if isinstance(output, tuple) else output
        self.rows_BTD = rows.flatten(2)

    def note_last(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        """After the decoder: before the head."""
        if self.keeps_last:
            self.rows_BTD = output[0]

    def take(self) -> torch.Tensor:
        """The rows, which are then gone from here."""
        rows_BTD, self.rows_BTD = self.rows_BTD, None
        return torch.as_tensor(rows_BTD)


def _compact(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Gives the last row strides of its own.

    Cut out of a prompt [1, T, D] it is [1, 1, D] with the strides of the prompt. That counts as contiguous, but
    torch's matmul then takes a batched path that first copies the whole head's weight.
    """
    return (inputs[0].clone(memory_format=torch.contiguous_format),)


class _ZeroEmbedding(nn.Module):
    """Stands in for a position embedding that an earlier part has added already."""

    def forward(self, *_: object, **__: object) -> torch.Tensor:
        return torch.zeros(())


class _Identity(nn.Module):
    """Stands in for a norm or projection that another part applies."""

    def forward(self, hidden: Any = None, *_: object, inputs_embeds: Any = None, **__: object) -> Any:
        return inputs_embeds if hidden is None else hidden


def cut(config: PretrainedConfig, spec: PartSpec) -> Part:
    """The part of a model that `spec` names, on the meta device.

    Raises:
        UnsupportedModel: this architecture cannot be cut.
        BadPlan: the part's layers are not one contiguous range, or there are none.
    """
    model = build_on_meta(config)
    layout = inspect_model(model)
    indices = spec.layer_indices(layout.n_layers)
    layers = range(indices[0], indices[-1] + 1) if indices else range(0)
    if not indices or len(layers) != len(indices):
        raise BadPlan(f"a part runs one contiguous range of layers, not {spec}")
    spec = PartSpec(begin=spec.begin or spec.full, layers=(layers,), end=spec.end or spec.full)
    reason = why_not_here(config, layers)
    if reason is not None:
        raise BadPlan(f"{config.model_type}, part {spec}: {reason}")
    cache_specs = cache_layer_specs(model.config)
    each = len(cache_specs) // layout.n_layers
    cache_specs = cache_specs[layers.start * each : layers.stop * each]
    leave_out(model, layout.unused)
    length = context_length(model, layout)
    _keep_layers(model, layout, layers, each)
    if not spec.begin:
        for path, stand_in in _before_the_layers(model, layout):
            model.set_submodule(path, stand_in)
    if not spec.end:
        for path in _outermost(layout.suffix_modules):
            model.set_submodule(path, _Identity())
    return Part(model, layout, spec, layers, cache_specs, length)


def _keep_layers(model: PreTrainedModel, layout: ModelLayout, layers: range, each: int) -> None:
    """Leaves only `layers`, each of which has `each` entries in the cache, and lets config and cache agree."""
    whole = model.get_submodule(layout.layers)
    kept = nn.ModuleList([whole.get_submodule(str(i)) for i in layers])
    for module in kept.modules():
        for name in {"layer_idx", "layer_id"} & vars(module).keys():
            if isinstance(index := getattr(module, name), int):
                setattr(module, name, index - layers.start * each)
    model.set_submodule(layout.layers, kept)
    for module in model.modules():
        # rotary tables are made again when the part is filled: for all kinds of layers of the whole model
        if not own_modules(module) and not own_parameters(module) and hasattr(module, "config"):
            module.config = copy.deepcopy(module.config)
    for config in {id(c): c for c in (model.config, model.config.get_text_config(decoder=True))}.values():
        slice_config(config, layout.n_layers, layers, each)


def _outermost(paths: Iterable[str]) -> list[str]:
    """The paths that lie inside no other."""
    known = list(paths)
    return [path for path in known if not any(path.startswith(f"{other}.") for other in known)]


def _before_the_layers(model: PreTrainedModel, layout: ModelLayout) -> Iterator[tuple[str, nn.Module]]:
    """Paths of the modules before the layers, and what stands in for each where rows enter at the first layer."""
    for path in _outermost(layout.prefix_modules):
        is_embedding = isinstance(model.get_submodule(path), nn.Embedding)
        yield path, _ZeroEmbedding() if is_embedding else _Identity()
