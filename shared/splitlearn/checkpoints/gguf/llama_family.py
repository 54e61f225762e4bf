"""Llama, Qwen2 and Qwen3 in GGUF files: names of tensors, the order of rows, and the config.

llama.cpp rotates adjacent pairs of a head of Llama, where transformers rotates halves: it reorders the rows of q and k.
Source: https://github.com/ggml-org/llama.cpp (gguf-py/gguf/tensor_mapping.py, convert_hf_to_gguf.py).
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from splitlearn.checkpoints.gguf.metadata import Metadata

_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER = re.compile(r"blk\.(\d{1,4})\.(\w+)\.(weight|bias)")
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@dataclass(frozen=True)
class LlamaFamily:
    """One model; `heads` and `kv_heads` have `head` rows each in q and k."""

    metadata: Metadata
    heads: int
    kv_heads: int
    head: int

    @classmethod
    def read(cls, metadata: Metadata) -> "LlamaFamily":
        """Raises UnsupportedModel, BadCheckpoint."""
        if metadata.architecture not in _CLASSES:
            raise metadata.refuse(f"an architecture other than {', '.join(_CLASSES)}")
        for key in ("expert_count", "attention.sliding_window"):
            if metadata.has(key):
                raise metadata.refuse(key)
        heads = metadata.size("attention.head_count")
        head = metadata.size("attention.key_length", max(1, metadata.size("embedding_length") // heads))
        for key in ("attention.value_length", "rope.dimension_count"):
            if metadata.size(key, head) != head:
                raise metadata.refuse(f"{key} {metadata.size(key)} beside heads of {head}")
        return cls(metadata, heads, metadata.size("attention.head_count_kv", heads), head)

    def config(self, tensors: Collection[str], vocabulary: int, rope: dict[str, Any]) -> dict[str, Any]:
        """The values of a config.json.

        Args:
            tensors: their names in the file.
            vocabulary: how many embeddings there are.
            rope: the config's rope_parameters.
        """
        metadata = self.metadata
        values = {
            "model_type": metadata.architecture,
            "architectures": [_CLASSES[metadata.architecture]],
            "vocab_size": vocabulary,
            "hidden_size": metadata.size("embedding_length"),
            "intermediate_size": metadata.size("feed_forward_length"),
            "num_hidden_layers": metadata.size("block_count"),
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head,
            "max_position_embeddings": metadata.size("context_length"),
            "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon"),
            "rope_parameters": rope,
            # the head is left out of the file where it is the embeddings
            "tie_word_embeddings": "output.weight" not in tensors,
            "bos_token_id": metadata.token("bos_token_id"),
            "eos_token_id": metadata.token("eos_token_id"),
            "pad_token_id": metadata.token("padding_token_id"),
        }
        if metadata.architecture != "qwen2":
            values["attention_bias"] = "blk.0.attn_q.bias" in tensors
        return values

    def name(self, name: str) -> str:
        """What a tensor of the file is called in transformers; its own name if it has no place there."""
        outer, _, ending = name.rpartition(".")
        if outer in _OUTER:
            return f"{_OUTER[outer]}.{ending}"
        found = _LAYER.fullmatch(name)
        if found is None or found[2] not in _INNER:
            return name
        return f"model.layers.{int(found[1])}.{_INNER[found[2]]}.{found[3]}"

    def order(self, name: str, rows: int) -> torch.Tensor | None:
        """For each row in transformers' order, where it is in the file; None if both are the same."""
        found = _LAYER.fullmatch(name)
        if self.metadata.architecture != "llama" or found is None or found[2] not in ("attn_q", "attn_k"):
            return None
        heads = self.heads if found[2] == "attn_q" else self.kv_heads
        if rows != heads * self.head or self.head % 2:
            # its shape is refused when it is compared with the model's
            return None
        return torch.arange(rows).reshape(heads, self.head // 2, 2).transpose(1, 2).reshape(-1)
