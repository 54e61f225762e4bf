"""The fields that the service refuses though others have them: each was looked at."""

from collections.abc import Mapping
from typing import Final

REFUSED: Final[Mapping[str, str]] = {
    "images, sound and video, as models read text alone": """
        audio image media_io_kwargs mm_payload
    """,
    "services of OpenAI and Anthropic: stored prompts and conversations, search, moderation, places": """
        access_programs background_options container conversation diagnostics inference_geo moderation prompt
        web_search_options
    """,
    "samplers and watermarks that are not built in": """
        adaptive_decay adaptive_target backend_sampling samplers top_n_sigma
    """,
    "which tokens an answer may have, and what else ends it": """
        n_indent repetition_detection t_max_predict_ms
    """,
    "number and length of answers, by the names of another API or server": """
        max_completion_tokens max_tokens n n_cmpl
    """,
    "the form of an answer, by the names of another API or server": """
        grammar json_schema response_format
    """,
    "how much a model thinks, and what becomes of its thoughts": """
        reasoning_budget_end_tag reasoning_budget_end_tags reasoning_budget_message reasoning_budget_start_tag
        reasoning_budget_tokens reasoning_control reasoning_effort reasoning_format thinking_budget_tokens
    """,
    "how a conversation is rendered": """
        add_generation_prompt chat_template chat_template_kwargs continue_final_message messages
        previous_input_messages
    """,
    "what becomes of a prompt that is too long or too short": """
        n_discard padding
    """,
    "other inputs, and how vectors are scaled": """
        content embd_normalize prompt_embeds use_activation
    """,
    "caches, adapters, extensions, and where and when a request runs": """
        cache_salt n_cache_reuse
    """,
    "what a reply holds besides the answer, and how it is written": """
        echo enable_response_messages logprob_token_ids logprobs post_sampling_probs response_fields
        return_weight_versions sse_ping_interval verbose
    """,
    "what llama-server's own parts tell each other": """
        chat_format chat_parser generation_prompt grammar_lazy grammar_triggers grammar_type message_delimiters
        parse_tool_calls preserved_tokens
    """,
}
"""Their names, by what they are about. A field may be refused by one endpoint and taken by another."""
