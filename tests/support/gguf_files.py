"""Tiny models in GGUF files, written by llama.cpp's own package: random blocks of codes, a byte-level vocabulary."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from support.tiny_models import TEMPLATE, VOCABULARY, tiny_tokenizer

HIDDEN, INNER, HEADS, KV_HEADS, HEAD, N_LAYERS = 256, 512, 4, 2, 64, 3

# of each type: at which bytes of a block its float16 are, and what they are about, so that weights are about 0.05
_HALVES = {
    Kind.Q4_0: {0: 0.01},
    Kind.Q4_1: {0: 0.01, 2: -0.075},
    Kind.Q5_0: {0: 0.005},
    Kind.Q5_1: {0: 0.005, 2: -0.08},
    Kind.Q8_0: {0: 0.0007},
    Kind.Q4_K: {0: 0.0003, 2: 0.002},
    Kind.Q5_K: {0: 0.00015, 2: 0.002},
    Kind.Q6_K: {208: 0.00007},
}


def random_blocks(kind: Kind, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Codes of a matrix in a type, as bytes; every code and every scale inside blocks occurs."""
    random = np.random.default_rng(seed)
    values, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    for at, about in _HALVES[kind].items():
        halves = (about * random.uniform(0.5, 1.5, len(blocks))).astype(np.float16)
        blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def shapes(architecture: str, tied: bool = False) -> dict[str, tuple[int, ...]]:
    """Names and shapes, rows first, of a file's tensors."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCABULARY, HIDDEN), "output_norm.weight": (HIDDEN,)}
    if not tied:
        found["output.weight"] = (VOCABULARY, HIDDEN)
    for layer in range(N_LAYERS):
        own: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (HIDDEN,),
            "attn_q.weight": (HEADS * HEAD, HIDDEN),
            "attn_k.weight": (KV_HEADS * HEAD, HIDDEN),
            "attn_v.weight": (KV_HEADS * HEAD, HIDDEN),
            "attn_output.weight": (HIDDEN, HEADS * HEAD),
            "ffn_norm.weight": (HIDDEN,),
            "ffn_gate.weight": (INNER, HIDDEN),
            "ffn_up.weight": (INNER, HIDDEN),
            "ffn_down.weight": (HIDDEN, INNER),
        }
        if architecture == "qwen2":
            own |= {
                "attn_q.bias": (HEADS * HEAD,),
                "attn_k.bias": (KV_HEADS * HEAD,),
                "attn_v.bias": (KV_HEADS * HEAD,),
            }
        if architecture == "qwen3":
            own |= {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}
        found |= {f"blk.{layer}.{name}": shape for name, shape in own.items()}
    return found


def write_gguf(
    path: Path,
    architecture: str = "llama",
    kind: Kind = Kind.Q8_0,
    *,
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray | None] | None = None,
    tied: bool = False,
    vocabulary: str | None = "gpt2",
) -> Path:
    """A whole model.

    Args:
        kind: of all matrices.
        metadata: more keys, or others, by what follows the architecture's name; None leaves one out.
        tensors: likewise more tensors.
        vocabulary: what the file calls its kind; None leaves it out.
    """
    writer = gguf.GGUFWriter(path, architecture)
    sizes: dict[str, Any] = {
        "context_length": 512,
        "block_count": N_LAYERS,
        "feed_forward_length": INNER,
        "embedding_length": HIDDEN,
        "rope.dimension_count": HEAD,
        "rope.freq_base": 50000.0,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        **(metadata or {}),
    }
    for key, value in sizes.items():
        if value is not None:
            _add(writer, key if key.startswith(("split.", "general.")) else f"{architecture}.{key}", value)
    if vocabulary is not None:
        _add_vocabulary(writer, vocabulary)
    changes = tensors or {}
    random = np.random.default_rng(0)
    for index, (name, shape) in enumerate(shapes(architecture, tied).items()):
        if name in changes:
            continue
        if len(shape) == 1:
            writer.add_tensor(name, (1 + 0.1 * random.standard_normal(shape)).astype(np.float32))
        elif kind in _HALVES:
            writer.add_tensor(name, random_blocks(kind, *shape, seed=index), raw_dtype=kind)
        else:
            numbers = (0.05 * random.standard_normal(shape)).astype(np.float32)
            writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    for name, changed in changes.items():
        if changed is not None:
            writer.add_tensor(name, changed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case str():
            writer.add_string(key, value)
        case float():
            writer.add_float32(key, value)
        case list():
            writer.add_array(key, value)
        case _:
            writer.add_uint32(key, value)


def _add_vocabulary(writer: gguf.GGUFWriter, kind: str) -> None:
    model = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=lambda token: int(model["vocab"][token]))
    tokens += [f"[PAD{index}]" for index in range(len(tokens), VOCABULARY)]
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
