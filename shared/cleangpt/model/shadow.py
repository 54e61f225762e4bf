"""A shadow: a small stack of layers that replaces a trunk and has its width at both ends.

A shadow without layers is the adapter of an early exit: a map of rank W from the bottom's rows to what the trunk adds
to them, as in "Eliciting Latent Predictions from Transformers with the Tuned Lens" (arXiv 2303.08112).

Shapes: B sequences, T rows, D the trunk's hidden size, W the shadow's own width.
"""

from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import Cache, PretrainedConfig, PreTrainedModel, Qwen3Config, Qwen3Model

from cleangpt.errors import ShadowTooLargeError
from cleangpt.model.first_layers import first_layers
from splitlearn.hf.cache import named_cache
from splitlearn.model.cache import PartCache, cache_layer_specs

_STEP = 8


class ShadowConfig(PretrainedConfig):  # type: ignore[misc]
    """The shape of a shadow.

    Args:
        hidden_size: D, the width of rows at both ends.
        width: W, the width of the layers; if it differs from D, stitching layers are added at both ends.
        num_hidden_layers: the number of layers. 0: stitching layers alone, of rank W.
        intermediate_size: the inner width of the MLPs.
        fingerprint: that of the bottom and top that the shadow was fitted for; empty before fitting.
    """

    model_type = "cleangpt_shadow"

    def __init__(
        self,
        hidden_size: int = 256,
        width: int = 128,
        num_hidden_layers: int = 1,
        num_attention_heads: int = 4,
        intermediate_size: int = 256,
        max_position_embeddings: int = 512,
        fingerprint: str = "",
        **rest: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.width = width
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.fingerprint = fingerprint
        super().__init__(**rest)

    @classmethod
    def within(cls, n_parameters: int, **shape: Any) -> Self:
        """The shape with the widest MLPs that has at most `n_parameters`.

        Args:
            shape: all fields but intermediate_size; `width` defaults to the hidden size.

        Raises:
            ShadowTooLargeError: even the narrowest MLPs exceed `n_parameters`, or it has no layers, and so no MLPs.
        """
        shape = {"width": shape.get("hidden_size", 256), **shape}
        if shape.get("num_hidden_layers") == 0:
            raise ShadowTooLargeError("a shadow without layers has no MLPs that could be narrower; give its width")
        least, next_one = (_parameters_of(cls(intermediate_size=size, **shape)) for size in (_STEP, 2 * _STEP))
        if least > n_parameters:
            raise ShadowTooLargeError(
                f"a shadow of {shape} has {least} parameters at least, {n_parameters} are allowed; "
                "take fewer or narrower layers"
            )
        return cls(intermediate_size=_STEP * (1 + (n_parameters - least) // (next_one - least)), **shape)

    @property
    def stack(self) -> Qwen3Config:
        """The config of the inner layers: Qwen3's, whose normed queries and keys tolerate high learning rates."""
        heads = self.num_attention_heads
        return Qwen3Config(
            vocab_size=1,
            hidden_size=self.width,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=heads // 2 if heads % 2 == 0 else heads,
            head_dim=self.width // self.num_attention_heads,
            max_position_embeddings=self.max_position_embeddings,
            bos_token_id=None,
            eos_token_id=None,
        )


class Shadow(PreTrainedModel):  # type: ignore[misc]
    """Maps hidden states to hidden states; with `past_key_values` it can continue row by row.

    Its output is the input plus what the layers add, as in the trunk's own residual stream, so a newly initialized
    shadow passes its input through.
    """

    config_class = ShadowConfig
    base_model_prefix = "stack"
    _supports_sdpa = True
    _no_split_modules = ("Qwen3DecoderLayer",)

    def __init__(self, config: ShadowConfig) -> None:
        super().__init__(config)
        stitched = config.width != config.hidden_size or not config.num_hidden_layers
        self.entrance: nn.Module = nn.Identity()
        if stitched:
            self.entrance = nn.Sequential(
                nn.RMSNorm(config.hidden_size, eps=1e-6), nn.Linear(config.hidden_size, config.width, bias=False)
            )
        self.stack = Qwen3Model(config.stack)
        # rows come from the bottom, never from ids
        self.stack.embed_tokens = nn.Identity()
        self.exit: nn.Module = nn.Linear(config.width, config.hidden_size, bias=False) if stitched else nn.Identity()
        if not stitched:
            self.stack.norm = nn.Identity()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module is self.exit:
                nn.init.zeros_(module.weight)
        else:
            super()._init_weights(module)

    @property
    def fingerprint(self) -> str:
        """That of the bottom and top that it was fitted for; empty before fitting."""
        return str(self.config.fingerprint)

    @property
    def n_parameters(self) -> int:
        """The number of parameters, including stitching layers."""
        return sum(each.numel() for each in self.parameters())

    def parameters_of(self, layer: int) -> list[nn.Parameter]:
        """The parameters of one layer. The entrance belongs to the first; every layer is fitted with norm and exit."""
        modules = [self.stack.layers[layer], self.stack.norm, self.exit, *([self.entrance] if layer == 0 else [])]
        return [each for module in modules for each in module.parameters()]

    def after(self, hidden_BTD: Tensor, layer: int) -> Tensor:
        """The output, [B, T, D], as if the shadow ended after `layer`, counted from 0."""
        with first_layers(self, "stack.layers", layer + 1):
            return torch.as_tensor(self(hidden_BTD))

    def new_cache(self) -> PartCache:
        """An empty cache of one session."""
        return PartCache(cache_layer_specs(self.config.stack))

    def forward(
        self, hidden_BTD: Tensor, past_key_values: Cache | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Maps the bottom's rows [B, T, D] to stand-ins for the trunk's, [B, T, D]; they follow those in the cache."""
        stack_BTW = self.stack(
            inputs_embeds=self.entrance(hidden_BTD),
            position_ids=position_ids,
            use_cache=past_key_values is not None,
            **named_cache(past_key_values),
        ).last_hidden_state
        if isinstance(self.exit, nn.Identity):
            return torch.as_tensor(stack_BTW)
        return torch.as_tensor(hidden_BTD + self.exit(stack_BTW))


def _parameters_of(config: ShadowConfig) -> int:
    with torch.device("meta"):
        return Shadow(config).n_parameters
