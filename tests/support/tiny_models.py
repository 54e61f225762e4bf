"""Tiny random models of many architectures, as Hugging Face folders and as sepweight directories."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from splitlearn.checkpoints.convert import prepare

N_LAYERS = 5
VOCABULARY = 384
CONTEXT = 512

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OLD: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 64,
    "n_layer": N_LAYERS,
    "n_head": 4,
    "n_positions": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": _OLD,
    "gemma": {**_COMMON, "head_dim": 16},
    "gemma2": {**_COMMON, "head_dim": 16, "sliding_window": 16},
    "qwen2": _COMMON,
    "qwen3": {**_COMMON, "head_dim": 16},
    "llama": _COMMON,
    "mistral": {**_COMMON, "sliding_window": 16},
    "mixtral": {**_COMMON, "num_local_experts": 4},
    "phi3": _COMMON,
    "falcon": _COMMON,
    "gpt_neox": _COMMON,
    "opt": {**_COMMON, "ffn_dim": 96, "word_embed_proj_dim": 32},
    "granite": {**_COMMON, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    "olmo": _COMMON,
    "xglm": {
        **{k: v for k, v in _COMMON.items() if k not in ("hidden_size", "num_hidden_layers")},
        "d_model": 64,
        "num_layers": N_LAYERS,
        "attention_heads": 4,
        "ffn_dim": 96,
    },
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": N_LAYERS, "n_head": 4},
}

TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def tiny_config(model_type: str, **changes: Any) -> PretrainedConfig:
    """A config of a few thousand parameters."""
    return CONFIG_MAPPING[model_type](**{**ARCHITECTURES[model_type], **changes})


def random_model(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """Random weights, large enough that wrong ones would show in the logits."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def tiny_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that can spell any text with few ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    if chat:
        fast.chat_template = TEMPLATE
    return fast


def save_checkpoint(folder: Path, model: PreTrainedModel, *, chat: bool = True) -> Path:
    """The model as a Hugging Face folder with its tokenizer."""
    model.save_pretrained(folder)
    tiny_tokenizer(chat).save_pretrained(folder)
    return folder


def save_sepweight(folder: Path, model: PreTrainedModel, *, chat: bool = True, dtype: str | None = None) -> Path:
    """The model as a sepweight directory `folder/tiny`."""
    checkpoint = save_checkpoint(folder / "checkpoint", model, chat=chat)
    prepare(str(checkpoint), dtype=dtype).write(folder / "tiny")
    return folder / "tiny"
