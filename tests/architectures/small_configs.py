"""Tiny configs of every causal language model that transformers has: its defaults with all sizes made small."""

from dataclasses import fields
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

N_LAYERS = 6
VOCABULARY = 131
WIDTH = 64
WINDOW = 7

_FULL_OR_SLIDING = ["full_attention", "sliding_attention", "sliding_attention"] * 2

_SIZES: dict[int, str] = {
    VOCABULARY: "vocab_size vocab_size_per_layer_input audio_vocab_size",
    WIDTH: "hidden_size d_model n_embd emb_dim embedding_dim embedding_size word_embed_proj_dim attention_hidden_size "
    "input_embedding_size output_embedding_size adapter_out_dim lru_width unpadded_vocab_size out_hidden_size "
    "adapter_in_dim adapter_input_size",
    N_LAYERS: "num_hidden_layers n_layer num_layers n_layers decoder_layers encoder_layers num_decoder_layers "
    "num_encoder_layers num_blocks depth",
    4: "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads encoder_attention_heads "
    "swa_num_attention_heads num_decoder_attention_heads num_encoder_attention_heads linear_num_heads "
    "linear_num_key_heads linear_num_value_heads num_group_q hidden_size_per_layer_input",
    2: "num_key_value_heads num_kv_heads swa_num_key_value_heads num_experts_per_tok num_experts_per_token moe_topk "
    "moe_k n_group num_expert_group zero_expert_num num_mem_blocks",
    16: "head_dim swa_head_dim kv_channels d_head dim_head attention_head_size qk_rope_head_dim qk_nope_head_dim "
    "v_head_dim index_head_dim linear_head_dim linear_key_head_dim linear_value_head_dim mamba_d_head mamba_head_dim "
    "mamba_headdim attention_head_dim",
    96: "intermediate_size ffn_dim n_inner dff d_inner dim_ff decoder_ffn_dim encoder_ffn_dim feed_forward_size "
    "ffn_hidden_size intermediate_size_mlp dense_intermediate_size",
    32: "index_n_heads moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size "
    "shared_experts_intermediate_size moe_shared_expert_intermediate_size shared_intermediate_size router_hidden_size",
    8: "num_experts n_routed_experts num_local_experts moe_num_experts rotary_dim index_topk state_size mamba_d_state "
    "ssm_state_size mamba_n_heads mamba_num_heads chunk_size mamba_chunk_size attention_chunk_size d_rel "
    "index_block_size rel_extent",
    24: "kv_lora_rank q_lora_rank o_lora_rank gated_norm_rank adapter_rank",
    256: "max_position_embeddings n_positions max_seq_len max_target_positions n_ctx model_max_length context_length",
    WINDOW: "sliding_window sliding_window_size attention_window_size window_size local_attention",
    1: "topk_group bos_token_id",
    0: "pad_token_id",
}
_SMALL: dict[str, Any] = {name: size for size, names in _SIZES.items() for name in names.split()}
_SMALL |= {"eos_token_id": 2, "is_decoder": True}

# What the defaults leave out, or what makes more of an architecture's traits show in six layers.
_OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]}
        }
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}},
    "deepseek_v4": {"mlp_layer_types": ["hash_moe"] * 2 + ["moe"] * 4},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 8, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dots3_note_vision_encoder": {"num_hidden_layers": 42},
    "dots3_note_text": {
        "layer_types": ["indexed_attention", "sliding_attention"] * 3,
        "per_layer_config": {i: {"head_dim": 32, "kv_lora_rank": 16} for i in (1, 3, 5)},
    },
    "falcon_h1": {"mamba_d_ssm": 128},
    "glm_moe_dsa": {"indexer_types": ["full", "shared"] * 3},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention", "linear_attention"] * 2},
    "hy_v4": {"indexer_types": ["full", "shared"] * 3},
    "laguna": {"layer_types": _FULL_OR_SLIDING},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"] * 2},
    "llama4_text": {"floor_scale": 4},
    "mamba2": {"num_heads": 8},
    "mellum": {"layer_types": _FULL_OR_SLIDING},
    "minimax_m3_vl_text": {"index_n_heads": 2, "layer_types": ["full_attention", "minimax_m3_sparse"] * 3},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "linear_attention", "mlp"]
    },
    "qwen2": {"use_sliding_window": True, "max_window_layers": 3},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 3},
    "gemma4_text": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0},
    "qwen4_exp_text": {
        "indexer_n_heads": 8,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 3},
}


def small_config(model_type: str) -> PretrainedConfig:
    """A config of `N_LAYERS` layers and well under a million parameters."""
    kind = CONFIG_MAPPING[model_type]
    return kind(**_shrunk(kind))


def _shrunk(kind: type[PretrainedConfig]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    values = {name: size for name, size in _SMALL.items() if name in names}
    if "kv_lora_rank" in names:
        values["num_key_value_heads"] = values["num_attention_heads"]
    for name, sub in kind.sub_configs.items():
        if sub is AutoConfig:
            sub = CONFIG_MAPPING[kind.sub_configs_defaults[name].model_type]
        if name in names and hasattr(sub, "model_type"):
            values[name] = _shrunk(sub) | {"model_type": sub.model_type}
    return values | _OWN.get(kind.model_type, {})
