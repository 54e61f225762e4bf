"""Everything around the layers, in Hugging Face's form: embeddings, positions, mask, cache, final norm, head, loss.

Weights are initialized as in GPT-2: normal with a standard deviation of 0.02, biases zero, and projections into a
residual stream divided by the square root of the number of projections that write into it. The head is tied to the
token embedding.

Shapes: B sequences, T rows, N rows including cached ones, D hidden size, V vocabulary.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin, GradientCheckpointingLayer, PreTrainedModel

from cleangpt.errors import BadInputError
from cleangpt.model.alibi import AlibiColumns, alibi_columns
from cleangpt.model.configuration import CleanGPTConfig
from splitlearn.hf.authoring import can_return_tuple, capture_outputs, causal_mask, rows_to_keep
from splitlearn.hf.cache import CACHE_NAMES, named_cache
from splitlearn.hf.outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    cache_of,
    causal_output,
    decoder_output,
)


class Layer(GradientCheckpointingLayer, ABC):  # type: ignore[misc]  # transformers has no types
    """One layer of an architecture."""

    def __init__(self, config: CleanGPTConfig, layer_idx: int) -> None:
        super().__init__()

    @abstractmethod
    def begin_weights(self, deviation: float, n_layers: int) -> None:
        """Initializes the weights that differ from the default, normal with this standard deviation."""


class CleanGPTPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """What transformers requires of an architecture besides its forward pass."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement: ClassVar = list(CACHE_NAMES)
    _supports_sdpa = True
    _supports_attention_backend = True

    @classmethod
    def is_custom_code(cls) -> bool:
        """False, as for transformers' own models: tensors get their values by its functions, which spare loaded ones.

        Of other code transformers initializes no module without tensors of its own, so no layer of most architectures.
        """
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # modules inside a layer are initialized before the layer, so this overrides their defaults
        if isinstance(module, Layer):
            module.begin_weights(self.config.initializer_range, self.config.num_hidden_layers)


class CleanGPTModel(CleanGPTPreTrainedModel):
    """Maps token ids to hidden states. Architectures define the layer class and the streams through the layers."""

    layer_class: ClassVar[type[Layer]]

    def __init__(self, config: CleanGPTConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if not config.alibi:
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(self.layer_class(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=config.bias)
        self.gradient_checkpointing = False
        self.post_init()

    def into_layers(self, embedded_BTD: torch.Tensor) -> torch.Tensor:
        """The input of the first layer."""
        return embedded_BTD

    def out_of_layers(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """The input of the final norm, [B, T, D]."""
        return hidden_BTD

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """The forward pass, with the arguments of every transformers model.

        Args:
            input_ids: [B, T]; `inputs_embeds` [B, T, D] may replace it.
            attention_mask: [B, N], 0 where a row is padding. Positions then count only the other rows.
            position_ids: [B or 1, T].
            past_key_values: the cache; transformers calls it `cache` since 5.24, and callers may use either name.
            use_cache: None means yes, except in training.

        Raises:
            BadInputError: both or neither of token ids and embeddings, or a text longer than the learned positions.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise BadInputError("give either input_ids or inputs_embeds")
        embedded_BTD = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = self._positions(embedded_BTD, attention_mask, cache)
        self._check_positions(position_ids, attention_mask, cache)
        mask = causal_mask(self.config, embedded_BTD, attention_mask, cache, position_ids)
        alibi = self._alibi(position_ids)
        if alibi is None:
            embedded_BTD = embedded_BTD + self.embed_positions(position_ids)
        hidden = self.into_layers(self.dropout(embedded_BTD))
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=position_ids,
                use_cache=use_cache,
                alibi=alibi,
                **named_cache(cache),
                **kwargs,
            )
        normed_BTD = self.norm(self.out_of_layers(hidden))
        return decoder_output(normed_BTD, cache)

    def _positions(
        self, embedded_BTD: torch.Tensor, attention_mask: torch.Tensor | None, past: Cache | None
    ) -> torch.Tensor:
        n_rows, device = embedded_BTD.shape[1], embedded_BTD.device
        if attention_mask is not None and attention_mask.ndim == 2:
            return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -n_rows:]
        start = 0 if past is None else past.get_seq_length()
        return torch.arange(start, start + n_rows, device=device)[None]

    def _check_positions(self, position_ids: torch.Tensor, attention_mask: Any, past: Cache | None) -> None:
        if self.config.alibi:
            return
        if isinstance(attention_mask, torch.Tensor):
            n_rows = attention_mask.shape[-1]
        else:
            n_rows = position_ids.shape[-1] + (0 if past is None else past.get_seq_length())
        longest = self.config.max_position_embeddings
        # padding takes no position, so only the positions tell how long the texts are; reading them waits for a
        # device other than the CPU, so there it is done only when there are more rows than positions
        if (n_rows > longest or position_ids.is_cpu) and (n_tokens := int(position_ids.max()) + 1) > longest:
            raise BadInputError(
                f"the model has positions for {longest} tokens, found {n_tokens}; "
                "shorten the text, or train with a larger block_size or with alibi"
            )

    def _alibi(self, position_ids_BT: torch.Tensor) -> AlibiColumns | None:
        if not self.config.alibi:
            return None
        n_head = self.config.num_attention_heads
        scaling = (self.config.hidden_size // n_head) ** -0.5
        return alibi_columns(position_ids_BT, n_head, scaling)


class CleanGPTForCausalLM(CleanGPTPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The model with its head, which maps hidden states to logits, and the loss."""

    model_class: ClassVar[type[CleanGPTModel]]
    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: CleanGPTConfig) -> None:
        super().__init__(config)
        self.model = self.model_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """The forward pass of every causal transformers model: logits [B, T, V], or the last `logits_to_keep` rows.

        Args:
            labels: [B, T]; the same ids as `input_ids`, or -100 for tokens that the loss ignores.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache=past_key_values if cache is None else cache,
            **kwargs,
        )
        logits_BTV = self.lm_head(rows_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits_BTV, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return causal_output(
            logits_BTV,
            cache_of(outputs),
            loss=loss,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
