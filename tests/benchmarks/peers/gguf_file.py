"""A benchmark's checkpoint as one GGUF file, by llama.cpp's own package: for llama-server.

The vocabulary consists of numbered tokens: prompts are token ids.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors import safe_open

from tests.benchmarks.contenders import WORK, ModelShape, make_weights

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def make_gguf(shape: ModelShape, kind: Kind) -> Path:
    """The checkpoint with all matrices in `kind`, made once and kept in build/bench."""
    path = WORK / f"{shape.name}-{kind.name.lower()}.gguf"
    if path.exists():
        return path
    checkpoint = make_weights(shape)[0]
    config = json.loads((checkpoint / "config.json").read_text())
    unfinished = path.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(unfinished, shape.model_type)
    _describe(writer, config)
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 it is no mapping
                _add(writer, name, tensors.get_tensor(name), kind, shape.model_type, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unfinished.rename(path)


def _describe(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    rope = config.get("rope_parameters") or config
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    vocabulary = config["vocab_size"]
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{number}>" for number in range(vocabulary)])
    writer.add_token_scores([0.0] * vocabulary)
    writer.add_token_types([gguf.TokenType.NORMAL] * vocabulary)
    writer.add_add_bos_token(False)


def _add(
    writer: gguf.GGUFWriter, name: str, weight: torch.Tensor, kind: Kind, model_type: str, config: Mapping[str, Any]
) -> None:
    stem, leaf = name.rsplit(".", 1)
    prefix = ""
    if stem.startswith("model.layers."):
        number, stem = stem.removeprefix("model.layers.").split(".", 1)
        prefix = f"blk.{number}."
    numbers = weight.float().numpy()
    if model_type == "llama" and stem in ("self_attn.q_proj", "self_attn.k_proj"):
        heads = config["num_attention_heads" if stem.endswith("q_proj") else "num_key_value_heads"]
        numbers = _adjacent_pairs(numbers, heads)
    # norms and biases are fp32 in such files
    held = kind if numbers.ndim == 2 else Kind.F32
    writer.add_tensor(f"{prefix}{_NAMES[stem]}.{leaf}", gguf.quants.quantize(numbers, held), raw_dtype=held)


def _adjacent_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query's or key's weight as llama.cpp rotates them: pairs side by side, not half a head apart."""
    halves = weight.reshape(heads, 2, -1, weight.shape[-1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
