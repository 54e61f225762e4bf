"""What becomes of published chat templates, kept in `results.jsonl`: `make template-results` writes it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from splitlearn_client.errors import BadModelFiles, BadRequest
from splitlearn_client.parsing.dialect import Dialect, Prefix, dialect_of
from splitlearn_client.parsing.events import Arguments, CallBegun, Content, Event, Reasoning
from splitlearn_client.text.call_probe import written_call
from splitlearn_client.text.chat_template import ChatTemplate, Rendering
from splitlearn_client.text.template_process import TemplateFailed
from splitlearn_client.text.tool_messages import WrittenCall
from templates.published import RESULTS, downloaded

_TOKENS: Final = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
_LONGEST: Final = 1 << 20
_NAME: Final = "get_weather"
_ARGUMENTS: Final = {"city": "Rome", "days": 3, "exact": True}
_PROPERTIES: Final = {
    "city": {"type": "string", "description": "A city."},
    "days": {"type": "integer", "description": "How many days."},
    "exact": {"type": "boolean", "description": "Whether to be exact."},
}
_PARAMETERS: Final = {"type": "object", "properties": _PROPERTIES, "required": ["city"]}
_TOOL: Final = {
    "type": "function",
    "function": {"name": _NAME, "description": "The weather of the next days.", "parameters": _PARAMETERS},
}
_USER: Final = {"role": "user", "content": "What is the weather in Rome?"}
_FUNCTION: Final = {"name": _NAME, "arguments": _ARGUMENTS}
_CALL: Final = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "call00000", "type": "function", "function": _FUNCTION}],
}
_RESULT: Final = {"role": "tool", "tool_call_id": "call00000", "name": _NAME, "content": '{"celsius": 4711}'}
_ANSWER: Final = {"role": "assistant", "content": "It is zqfine."}
# other tokens that end an answer, where calls are in it
_STOPS: Final = ("<|tool_response>", "<|eom_id|>")
_TOLD: Final = Rendering(tools=(_TOOL,))


def outcome(file: Path) -> dict[str, Any]:
    """A line of the list: the forms that are seen in a template, whether it renders an agent's conversation, and
    whether what it writes for a call is read as that call."""
    source = file.read_text(encoding="utf-8")
    try:
        template = ChatTemplate(source, _TOKENS)
    except (BadModelFiles, TemplateFailed) as error:
        return {"template": file.stem, "outcome": "unusable", "reason": str(error)}
    dialect = dialect_of(source, {}, written=written_call(template))
    line: dict[str, Any] = {
        "template": file.stem,
        "calls": type(dialect.form).__name__ if dialect.form else None,
        "reasoning": dialect.thoughts.opening if dialect.thoughts else None,
    }
    try:
        template.render([_USER, _CALL, _RESULT], _LONGEST, _TOLD)
        template.render([_USER, _CALL, _RESULT, _ANSWER, _USER], _LONGEST, _TOLD)
    except BadRequest as error:
        return {**line, "outcome": "refused", "reason": str(error)}
    line["outcome"] = "rendered"
    if dialect.form is None:
        return line
    written = written_call(template, _CALL, _TOOL)
    assert written is not None
    return {**line, "read": _read(dialect, written) == (_NAME, _ARGUMENTS)}


def _read(dialect: Dialect, written: WrittenCall) -> Any:
    """The one call that is read, or all that is."""
    reading = dialect.reading({_NAME: _PARAMETERS}, Prefix(written.before))
    assert reading is not None
    parser, text = reading.make_parser(True), written.text
    for stop in _STOPS:
        text = text.removesuffix(stop)
    events = [event for character in text for event in parser.feed(character)]
    events += parser.finish(is_cut_off=False)
    return _one_call(events)


def _one_call(events: Iterable[Event]) -> Any:
    events = list(events)
    names = [each.name for each in events if isinstance(each, CallBegun)]
    arguments = "".join(each.text for each in events if isinstance(each, Arguments))
    said = "".join(each.text for each in events if isinstance(each, Content))
    if len(names) == 1 and not said.strip():
        return names[0], json.loads(arguments)
    return names, arguments, said, "".join(each.text for each in events if isinstance(each, Reasoning))


def main() -> None:
    lines = [json.dumps(outcome(file), ensure_ascii=False) for file in downloaded()]
    RESULTS.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
