"""How the answers to a chat are taken apart, and which grammar they follow."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import TypeVar

from splitlearn_client.api.schema import ChatFields
from splitlearn_client.errors import BadRequest
from splitlearn_client.parsing.answer_grammar import ANY_OBJECT, Offered, OfferedTool, answer_grammar, is_marked
from splitlearn_client.parsing.dialect import Dialect, Prefix, Reading
from splitlearn_client.structured.constraint import LONGEST_SOURCE, Constraint

R = TypeVar("R")


async def fed(reading: Reading | None, feed: Callable[[], R]) -> R:
    """Feeds an answer's parser, on a thread if that may take long."""
    if reading is None or reading.threads is None:
        return feed()
    in_context = partial(copy_context().run, feed)
    return await asyncio.get_running_loop().run_in_executor(reading.threads, in_context)


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
    is_formed = fields.is_constrained and not fields.must_call
    return dialect.reading({each.name: each.schema_of_arguments for each in offered}, prefix, is_formed=is_formed)


def constraint_of(fields: ChatFields, dialect: Dialect, prefix: Prefix) -> Constraint | None:
    """What the answer has to follow, its reasoning and calls with it. Raises BadRequest."""
    asked = fields.constraint()
    if asked is None and not fields.constrains_calls:
        return None
    offered = _offered(fields, dialect)
    if asked is not None and offered is not None and not (offered.must_call or is_marked(offered.form)):
        raise BadRequest(
            "this model's calls are JSON objects without a marker, which nothing tells from an answer in this form; "
            'leave the field out, or send tool_choice "required" or "none"',
            asked.param,
        )
    if asked is not None and offered is None and dialect.thoughts is None and not dialect.is_harmony:
        return asked
    source = answer_grammar(dialect, prefix, offered, asked)
    # what is asked for has been measured by itself
    if len(replace(source, constraint=None).text()) > LONGEST_SOURCE:
        raise BadRequest(f"the tools' schemas have more than {LONGEST_SOURCE} characters", "tools")
    return Constraint("answer", source.text(), "tools" if source.constraint is None else source.constraint.param)


def _offered(fields: ChatFields, dialect: Dialect) -> Offered | None:
    if not fields.offered:
        return None
    if dialect.form is None:
        raise BadRequest(
            "no grammar can make this model call tools, as its form is not among those of --tool-call-parser; send "
            'tool_choice "auto" without strict and with parallel_tool_calls, and no response_format',
            "tools",
        )
    tools = [
        OfferedTool(
            each.name,
            each.schema_of_arguments if fields.must_call or each.strict else ANY_OBJECT,
            ("tools", str(number), "function", "parameters"),
        )
        for number, each in fields.offered.items()
    ]
    return Offered(dialect.form, tools, must_call=fields.must_call, is_one=fields.is_one_call)
