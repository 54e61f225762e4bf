"""Neutral values: values of unsupported fields that would not change the answer, and are therefore accepted.

Many programs send all fields that they know, at their defaults. Each table maps a field to its neutral values. The
fields are those of the OpenAI API, of vLLM, and of samplers of other servers with this API. A supported field may be
listed with a second spelling of its default. Null counts as absent everywhere, and is not listed.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Neutral:
    """The neutral values of a field: `words` for errors and documentation, `holds` to recognise them."""

    words: str
    holds: Callable[[Any], bool]


def only(*values: Any) -> Neutral:
    """Exactly these JSON values."""
    words = " or ".join(json.dumps(value) for value in values)
    return Neutral(words, lambda sent: any(_equal(sent, value) for value in values))


def _equal(sent: Any, value: Any) -> bool:
    """Equality of JSON values: true is not 1, and a null member counts as absent."""
    if isinstance(sent, bool) or isinstance(value, bool):
        return sent is value
    if isinstance(sent, dict) and isinstance(value, dict):
        kept = {name: each for name, each in sent.items() if each is not None}
        return kept.keys() == value.keys() and all(_equal(kept[name], value[name]) for name in kept)
    if isinstance(sent, list) and isinstance(value, list):
        return len(sent) == len(value) and all(map(_equal, sent, value))
    return bool(sent == value)


ANYTHING: Final = Neutral("anything", lambda _: True)

# fields of other servers that generate, in every dialect
SERVERS: Final[Mapping[str, Neutral]] = {
    # vLLM
    "bad_words": only([]),
    "detokenize": only(True),
    "documents": only([]),
    "ec_transfer_params": only({}),
    "guided_decoding_backend": ANYTHING,
    "include_reasoning": only(True),
    "kv_transfer_params": only({}),
    "length_penalty": only(1),
    "logits_processors": only([]),
    "media_io_kwargs": only({}),
    "mm_processor_kwargs": only({}),
    "priority": only(0),
    "request_id": ANYTHING,
    "return_mm_kwargs": ANYTHING,
    "return_prompt_text": only(False),
    "return_token_ids": only(False),
    "return_token_offsets": only(False),
    "return_tokens_as_token_ids": only(False),
    "routed_experts_prompt_start": only(0),
    "seed": only(-1),
    "session_id": ANYTHING,
    "skip_special_tokens": only(True),
    "spaces_between_special_tokens": only(True),
    "stop": only(""),
    "stream_interval": only(1),
    "thinking_token_budget": only(-1),
    "truncation_side": ANYTHING,
    "use_beam_search": only(False),
    "vllm_xargs": only({}),
    "watermarking": only(False),
    # samplers of other servers; the parameters of one that is off change nothing
    "cache_prompt": ANYTHING,
    "dry_allowed_length": ANYTHING,
    "dry_base": ANYTHING,
    "dry_multiplier": only(0),
    "dry_penalty_last_n": ANYTHING,
    "dry_sequence_breakers": ANYTHING,
    "dynatemp_exponent": ANYTHING,
    "dynatemp_range": only(0),
    "early_stopping": only(False),
    "encoder_repetition_penalty": only(1),
    "epsilon_cutoff": only(0),
    "eta_cutoff": only(0),
    "guidance_scale": only(1),
    "keep_alive": ANYTHING,
    "mirostat": only(0),
    "mirostat_eta": ANYTHING,
    "mirostat_mode": only(0),
    "mirostat_tau": ANYTHING,
    "n_probs": only(0),
    "no_repeat_ngram_size": only(0),
    "num_beams": only(1),
    "num_return_sequences": only(1),
    "penalty_alpha": only(0),
    "repeat_last_n": ANYTHING,
    "repeat_penalty": only(1),
    "smoothing_factor": only(0),
    "tfs": only(1),
    "tfs_z": only(1),
    "top_a": only(0),
    "typical": only(1),
    "typical_p": only(1),
    "xtc_probability": only(0),
    "xtc_threshold": ANYTHING,
    # llama-server
    "id_slot": only(-1),
    "lora": only([]),
    "min_keep": only(0),
    "n_keep": only(0),
    "n_predict": only(-1),
    "return_progress": only(False),
    "return_tokens": only(False),
    "timings_per_token": only(False),
    "top_k": only(-1),
}

GENERATION: Final[Mapping[str, Neutral]] = {
    **SERVERS,
    "metadata": ANYTHING,
    "prompt_cache_key": ANYTHING,
    "prompt_cache_options": ANYTHING,
    "prompt_cache_retention": ANYTHING,
    "response_format": only({"type": "text"}),
    "safety_identifier": ANYTHING,
    "service_tier": only("auto", "default"),
    "store": ANYTHING,
    "user": ANYTHING,
}

COMPLETION: Final[Mapping[str, Neutral]] = {
    **GENERATION,
    "add_special_tokens": only(True),
    "chat_template_kwargs": only({}),
    "logprobs": only(False),
    "suffix": only(""),
}

CHAT: Final[Mapping[str, Neutral]] = {
    **GENERATION,
    "best_of": only(1),
    "echo": only(False),
    "add_special_tokens": only(False),
    "function_call": only("none", "auto"),
    "functions": only([]),
    # llama-server's for no limit
    "max_completion_tokens": only(-1),
    "max_tokens": only(-1),
    "modalities": only(["text"]),
    "prediction": ANYTHING,
    "tools": only([]),
    "top_logprobs": only(0),
    "verbosity": only("medium"),
}

EMBEDDING: Final[Mapping[str, Neutral]] = {
    "add_special_tokens": only(True),
    "embed_dtype": only("float32", "float"),
    "endianness": only("native", "little"),
    "metadata": ANYTHING,
    "mm_processor_kwargs": only({}),
    "priority": only(0),
    "request_id": ANYTHING,
    "service_tier": only("auto", "default"),
    # inputs that are longer than the context are refused, and not cut
    "truncate_prompt_tokens": only(-1),
    "truncation_side": ANYTHING,
    "user": ANYTHING,
}

TOKENIZE: Final[Mapping[str, Neutral]] = {
    "mm_processor_kwargs": only({}),
    "tools": only([]),
}

STRUCTURED_OUTPUTS: Final[Mapping[str, Neutral]] = {
    "disable_additional_properties": only(False),
    "disable_any_whitespace": only(False),
    "disable_fallback": ANYTHING,
    "json_object": only(False),
}

TOOL_CALL: Final[Mapping[str, Neutral]] = {"index": ANYTHING}

STREAM_OPTIONS: Final[Mapping[str, Neutral]] = {"include_obfuscation": only(False)}

MESSAGE: Final[Mapping[str, Neutral]] = {
    "annotations": ANYTHING,
    "cache_control": ANYTHING,
    "partial": only(False),
    "prefix": only(False),
    "reasoning": only(""),
    "reasoning_content": only(""),
    "reasoning_details": only([]),
    "refusal": only(""),
    "tool_calls": only([]),
}

CONTENT_PART: Final[Mapping[str, Neutral]] = {
    "annotations": ANYTHING,
    "cache_control": ANYTHING,
    "citations": only([]),
    "prompt_cache_breakpoint": ANYTHING,
}

RESPONSES: Final[Mapping[str, Neutral]] = {
    **SERVERS,
    "background": only(False),
    "context_management": only([]),
    "include": only([], ["reasoning.encrypted_content"]),
    # calls of tools that the service itself runs, and it has none
    "max_tool_calls": ANYTHING,
    "prompt_cache_key": ANYTHING,
    "prompt_cache_options": ANYTHING,
    "prompt_cache_retention": ANYTHING,
    "safety_identifier": ANYTHING,
    "service_tier": only("auto", "default"),
    "top_logprobs": only(0),
    "truncation": only("disabled"),
    "user": ANYTHING,
}

RESPONSES_REASONING: Final[Mapping[str, Neutral]] = {
    # summaries are OpenAI's own; here reasoning is told as it is
    "generate_summary": ANYTHING,
    "summary": ANYTHING,
}

RESPONSES_TEXT: Final[Mapping[str, Neutral]] = {"verbosity": only("medium")}

RESPONSES_TOOL: Final[Mapping[str, Neutral]] = {
    "allowed_callers": only(["direct"]),
    "async": only(False),
    "defer_loading": only(False),
    "output_schema": only({}),
}

RESPONSES_ITEM: Final[Mapping[str, Neutral]] = {
    "async": only(False),
    "caller": only({"type": "direct"}),
    "encrypted_content": only(""),
    "id": ANYTHING,
    "phase": ANYTHING,
    "status": ANYTHING,
}

RESPONSES_PART: Final[Mapping[str, Neutral]] = {
    "annotations": ANYTHING,
    "logprobs": ANYTHING,
    "prompt_cache_breakpoint": ANYTHING,
}

ANTHROPIC: Final[Mapping[str, Neutral]] = {
    **SERVERS,
    "cache_control": ANYTHING,
    "context_management": only({}, {"edits": []}),
    "mcp_servers": only([]),
    "metadata": ANYTHING,
    "service_tier": only("auto", "standard_only"),
    "speed": only("standard"),
    "thinking": only({"type": "disabled"}),
}

ANTHROPIC_TOOL: Final[Mapping[str, Neutral]] = {
    "allowed_callers": only(["direct"]),
    "cache_control": ANYTHING,
    "defer_loading": only(False),
    "eager_input_streaming": ANYTHING,
    "input_examples": only([]),
}

ANTHROPIC_OUTPUT: Final[Mapping[str, Neutral]] = {"effort": only("high")}

ANTHROPIC_BLOCK: Final[Mapping[str, Neutral]] = {
    "cache_control": ANYTHING,
    "caller": only({"type": "direct"}),
    "citations": only([]),
    # what went wrong is in the result's text, which is what the model reads
    "is_error": ANYTHING,
    # of thoughts, which nobody checks here
    "signature": ANYTHING,
}
