"""The anthropic package: messages whole and streamed, tools, counting, and its errors; and the fields that it knows."""

import json
import os

import anthropic
from anthropic.types import (
    message_count_tokens_params,
    message_create_params,
    output_config_param,
    text_block_param,
    thinking_block_param,
    tool_choice_tool_param,
    tool_param,
    tool_result_block_param,
    tool_use_block_param,
)

client = anthropic.Anthropic(base_url=os.environ["URL"], api_key=os.environ["KEY"], max_retries=0)
hello = [{"role": "user", "content": "hello"}]
schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
greedy = {"model": "tiny", "max_tokens": 8, "messages": hello, "extra_body": {"temperature": 0}}

whole = client.messages.create(**greedy)
with client.messages.stream(**greedy) as stream:
    streamed = "".join(stream.text_stream)
    last = stream.get_final_message()
tool = {"name": "f", "description": "does", "input_schema": schema}
calling = {"model": "tiny", "max_tokens": 300, "messages": hello, "tools": [tool]}
calling |= {"tool_choice": {"type": "tool", "name": "f"}}
calling |= {"extra_body": {"temperature": 0, "chat_template_kwargs": {"enable_thinking": False}}}
called = client.messages.create(**calling)
with client.messages.stream(**calling) as stream:
    called_in_stream = stream.get_final_message()
call = next(block for block in called.content if block.type == "tool_use")
result = {"type": "tool_result", "tool_use_id": call.id, "content": "5"}
turns = [*hello, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
after = client.messages.create(model="tiny", max_tokens=8, messages=turns, tools=[tool])


def refusal(error, **fields):
    try:
        client.messages.create(**greedy | fields)
    except error as refused:
        return [refused.status_code, refused.body["error"]["type"]]


def names(params):
    return sorted(params.__annotations__)


print(
    json.dumps(
        {
            "text": whole.content[0].text,
            "streamed": streamed,
            "reasons": [whole.stop_reason, last.stop_reason],
            "usage": [whole.usage.output_tokens, last.usage.output_tokens],
            "counted": client.messages.count_tokens(model="tiny", messages=hello).input_tokens,
            "spent": whole.usage.input_tokens + whole.usage.cache_read_input_tokens,
            "called": [call.name, call.input, called.stop_reason],
            "called_in_stream": [
                [block.name, block.input] for block in called_in_stream.content if block.type == "tool_use"
            ],
            "after": after.role,
            "refused": [
                refusal(anthropic.NotFoundError, model="another"),
                refusal(anthropic.BadRequestError, thinking={"type": "enabled", "budget_tokens": 1024}),
            ],
            "fields": {
                "MessagesFields": names(message_create_params.MessageCreateParamsBase),
                "CountFields": names(message_count_tokens_params.MessageCountTokensParams),
                "OutputConfig": names(output_config_param.OutputConfigParam),
                "TextBlock": names(text_block_param.TextBlockParam),
                "ThinkingBlock": names(thinking_block_param.ThinkingBlockParam),
                "ToolUseBlock": names(tool_use_block_param.ToolUseBlockParam),
                "ToolResultBlock": names(tool_result_block_param.ToolResultBlockParam),
                "Tool": names(tool_param.ToolParam),
                "ToolChoice": names(tool_choice_tool_param.ToolChoiceToolParam),
            },
        }
    )
)
