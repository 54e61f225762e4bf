"""Chat templates that write tools, calls and their results as the common families do, and their special tokens."""

# ruff: noqa: E501 (templates have long lines)

from dataclasses import dataclass
from pathlib import Path

from splitlearn.checkpoints.convert import prepare
from support.tiny_models import random_model, tiny_config, tiny_tokenizer


@dataclass(frozen=True)
class Family:
    """A template, and the special tokens that it writes."""

    template: str
    tokens: tuple[str, ...] = ()


_THINKING = (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% elif open_thinking is defined %}<think>\n{% endif %}{% endif %}"
)
HERMES = Family(
    "{% if tools %}<|im_start|>system\n# Tools\n<tools>{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools>"
    "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
    "{% if m.role == 'tool' %}<tool_response>\n{{ m.content }}\n</tool_response>"
    "{% else %}{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}" + _THINKING,
    ("<|im_start|>", "<|im_end|>"),
)
LLAMA3 = Family(
    "{% for m in messages %}<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>\n\n"
    "{% if loop.first and tools %}Given the following functions: {% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "{% endif %}{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}'
    "{% else %}{{ m.content }}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
)
_MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{% if loop.first and tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "[INST]{{ m.content }}[/INST]{% elif m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
    "{% elif m.role == 'tool' %}{% if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    "[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]{% elif m.role == 'assistant' %}"
    "{% if m.tool_calls %}CALLS{% else %}{{ m.content }}{% endif %}</s>"
    "{% else %}{{ raise_exception('Only user, system, assistant and tool roles are supported!') }}{% endif %}{% endfor %}"
)
MISTRAL = Family(
    _MISTRAL.replace(
        "CALLS",
        "[TOOL_CALLS][{% for call in m.tool_calls %}"
        '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}, "id": "{{ call.id }}"}'
        "{{ ', ' if not loop.last }}{% endfor %}]",
    ),
    ("[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[INST]", "[/INST]"),
)
MISTRAL_NAMED = Family(
    _MISTRAL.replace(
        "CALLS",
        "{% for call in m.tool_calls %}[TOOL_CALLS]{{ call.function.name }}[ARGS]{{ call.function.arguments | tojson }}"
        "{% endfor %}",
    )
    + "{# [THINK] [/THINK] #}",
    ("[TOOL_CALLS]", "[ARGS]", "[INST]", "[/INST]", "[THINK]", "[/THINK]"),
)
GEMMA = Family(
    "{% for tool in tools or [] %}<|tool>declaration:{{ tool.function.name }}<tool|>{% endfor %}"
    "{% for m in messages %}<|turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% for call in m.tool_calls or [] %}<|tool_call>call:{{ call.function.name ~ '{' }}"
    '{% for key, value in call.function.arguments | items %}{{ key }}:<|"|>{{ value }}<|"|>{{ "," if not loop.last }}'
    "{% endfor %}}<tool_call|>{% endfor %}{{ m.content }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}{# <|channel>thought <channel|> #}",
    ("<|turn>", "<turn|>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"),
)
FUNCTION_GEMMA = Family(
    "{% for tool in tools or [] %}<start_function_declaration>declaration:{{ tool.function.name }}"
    "<end_function_declaration>{% endfor %}{% for m in messages %}<start_of_turn>{{ m.role }}\n"
    "{% for call in m.tool_calls or [] %}<start_function_call>call:{{ call.function.name }}"
    "{{ call.function.arguments | tojson }}<end_function_call>{% endfor %}{{ m.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ("<start_function_call>", "<end_function_call>", "<escape>"),
)
HARMONY = Family(
    "{% if tools %}<|start|>developer<|message|>namespace functions {{ '{' }}"
    "{% for tool in tools %}type {{ tool.function.name }} = ({{ tool.function.parameters | tojson }}) => any;{% endfor %}}"
    "<|end|>{% endif %}{% for m in messages %}{% if m.role == 'tool' %}"
    "<|start|>functions to=assistant<|channel|>commentary<|message|>{{ m.content | tojson }}<|end|>"
    "{% elif m.tool_calls %}{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
    "{% endif %}{% for call in m.tool_calls %}<|start|>assistant to=functions.{{ call.function.name }}<|channel|>commentary "
    "json<|message|>{{ call.function.arguments | tojson }}<|call|>{% endfor %}"
    "{% elif m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
    ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"),
)
_DEEPSEEK = (
    "{% for tool in tools or [] %}### {{ tool.function.name }}: {{ tool.function.parameters | tojson }}\n{% endfor %}"
    "{% for m in messages %}{% if m.tool_calls %}<｜Assistant｜>{{ m.content }}<｜tool▁calls▁begin｜>"
    "{% for call in m.tool_calls %}CALL{% endfor %}<｜tool▁calls▁end｜><｜end▁of▁sentence｜>{% elif m.role == 'tool' %}"
    "<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>{% else %}<｜{{ m.role | capitalize }}｜>{{ m.content }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
_DEEPSEEK_TOKENS = (
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
    "<｜Assistant｜>", "<｜User｜>",
)  # fmt: skip
DEEPSEEK = Family(
    _DEEPSEEK.replace(
        "CALL",
        "<｜tool▁call▁begin｜>{{ call.function.name }}<｜tool▁sep｜>{{ call.function.arguments | tojson }}<｜tool▁call▁end｜>",
    ),
    _DEEPSEEK_TOKENS,
)
# its arguments are text, as in the template of DeepSeek-V3
DEEPSEEK_BLOCKS = Family(
    _DEEPSEEK.replace(
        "CALL",
        "{{ '<｜tool▁call▁begin｜>' + call.type + '<｜tool▁sep｜>' + call.function.name + '\\n```json\\n' + "
        "call.function.arguments + '\\n```<｜tool▁call▁end｜>' }}",
    ),
    _DEEPSEEK_TOKENS,
)
FAMILIES = {
    "hermes": HERMES,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "mistral named": MISTRAL_NAMED,
    "gemma": GEMMA,
    "function gemma": FUNCTION_GEMMA,
    "harmony": HARMONY,
    "deepseek": DEEPSEEK,
    "deepseek blocks": DEEPSEEK_BLOCKS,
}


def family_weights(folder: Path, family: Family) -> Path:
    """A tiny random model with the family's tokenizer, as a sepweight directory; its context has room for tools."""
    random_model(tiny_config("llama", max_position_embeddings=4096)).save_pretrained(folder / "checkpoint")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(family.tokens)})
    tokenizer.chat_template = family.template
    tokenizer.save_pretrained(folder / "checkpoint")
    prepare(str(folder / "checkpoint")).write(folder / "tiny")
    return folder / "tiny"
