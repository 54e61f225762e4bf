"""What a chat template writes for a call of a tool: it shows in which form the model calls."""

from collections.abc import Mapping
from typing import Any, Final

from splitlearn_client.errors import BadRequest
from splitlearn_client.text.chat_template import ChatTemplate, Message, Rendering
from splitlearn_client.text.tool_messages import WrittenCall, probe_call, probe_tool

_USER: Final = {"role": "user", "content": "word"}
_ANSWER: Final = "So it is."
# Enough for a question and a call in any template.
_CHARACTERS: Final = 1 << 22


def written_call(
    template: ChatTemplate, call: Message | None = None, tool: Mapping[str, Any] | None = None
) -> WrittenCall | None:
    """What the template writes; None if it refuses tools or their calls, or leaves them out. Blocks.

    Args:
        call: an assistant's message with one call; by default one of a name that no text has.
        tool: what it calls.
    """
    call = probe_call() if call is None else call
    name = str(call["tool_calls"][0]["function"]["name"])
    rendering = Rendering(begins_answer=False, tools=[tool or probe_tool(name)])
    try:
        called = template.render([_USER, call], _CHARACTERS, rendering)
        said = template.render([_USER, {"role": "assistant", "content": _ANSWER}], _CHARACTERS, rendering)
    except BadRequest:
        return None
    # both go on alike up to where an answer begins, and end alike
    common = next((at for at, (one, other) in enumerate(zip(called, said, strict=False)) if one != other), len(said))
    return WrittenCall(name, called[:common], called[common:].removesuffix(said.rpartition(_ANSWER)[2]))
