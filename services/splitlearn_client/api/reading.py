"""How the answers to a chat are taken apart, and which grammar makes them call tools."""

from splitlearn_client.api.schema import ChatFields
from splitlearn_client.errors import BadRequest
from splitlearn_client.parsing.dialect import Dialect, Prefix, Reading
from splitlearn_client.parsing.tool_grammar import ANY_OBJECT, OfferedTool, tool_grammar
from splitlearn_client.structured.constraint import LONGEST_SOURCE, Constraint


def prefix_of(fields: ChatFields, ending: str) -> Prefix:
    """What comes before an answer. `ending` is the text of the prompt's last tokens."""
    content = fields.messages[-1].plain()["content"] if fields.continue_final_message else ""
    said = content if isinstance(content, str) else "".join(part["text"] for part in content)
    return Prefix(ending, said)


def reading_of(fields: ChatFields, dialect: Dialect, prefix: Prefix) -> Reading | None:
    """How answers are taken apart; None if there is nothing to take apart.

    Raises:
        BadRequest: tools are offered, and it is not known how this model calls them.
    """
    offered = fields.offered.values()
    if offered and not dialect.reads_calls:
        raise BadRequest(
            "it is not known in which form this model calls tools; send no tools, or name the form with "
            "--tool-call-parser",
            "tools",
        )
    return dialect.reading({each.name: each.schema_of_arguments for each in offered}, prefix)


def constraint_of(fields: ChatFields, dialect: Dialect, prefix: Prefix) -> Constraint | None:
    """What the answer has to follow. Raises BadRequest."""
    if not fields.constrains_calls:
        return fields.constraint()
    if dialect.form is None:
        raise BadRequest(
            "no grammar can make this model call tools, as its form is not among those of --tool-call-parser; send "
            'tool_choice "auto" without strict and with parallel_tool_calls',
            "tools",
        )
    is_exact = fields.must_call
    tools = [
        OfferedTool(
            each.name,
            each.schema_of_arguments if is_exact or each.strict else ANY_OBJECT,
            (str(number), "function", "parameters"),
        )
        for number, each in fields.offered.items()
    ]
    source = tool_grammar(
        dialect, dialect.form, tools, prefix, must_call=fields.must_call, is_one=fields.is_one_call
    ).text()
    if len(source) > LONGEST_SOURCE:
        raise BadRequest(f"the tools' schemas have more than {LONGEST_SOURCE} characters", "tools")
    return Constraint("calls", source, "tools")
