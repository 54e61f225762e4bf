"""The text of a message, and the forms in which templates take it.

Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

Message = Mapping[str, Any]
Content = str | list[dict[str, str]]
ContentFormat = Literal["auto", "string", "openai"]
# The form of content for a template: text, a list of one part, or a list of all parts of the request.
Form = Literal["string", "part", "parts"]

FORMS: Final[tuple[Form, ...]] = ("string", "part", "parts")
FORCED: Final[dict[ContentFormat, frozenset[Form]]] = {
    "string": frozenset({"string"}),
    "openai": frozenset({"part", "parts"}),
}


def texts_of(message: Message) -> list[str]:
    """The texts of a message, one by one."""
    content = message.get("content") or ""
    return [content] if isinstance(content, str) else [part.get("text", "") for part in content]


def said_in(message: Message) -> str:
    """A message's text."""
    return "".join(texts_of(message))


def changed_messages(messages: Sequence[Message], text: str) -> frozenset[int]:
    """Indices of the messages that a rendered text does not hold as they are, but for blanks about them.

    Those of the assistant are left out: of these, templates drop what was thought.
    """
    return frozenset(
        index
        for index, message in enumerate(messages)
        if message["role"] != "assistant" and any(said.strip() not in text for said in texts_of(message))
    )


def with_one_text(message: Message) -> Message:
    """The message with a list of parts as one text."""
    return {**message, "content": said_in(message)} if isinstance(message.get("content"), list) else message


def in_form(content: Content, accepted: Iterable[Form]) -> Content:
    """The content in the accepted form that is nearest to the request's."""
    forms: list[Form] = ["string", "part", "parts"] if isinstance(content, str) else ["parts", "string", "part"]
    form = next(form for form in forms if form in accepted)
    if form == "parts" and not isinstance(content, str):
        return content
    text = said_in({"content": content})
    return text if form == "string" else [{"type": "text", "text": text}]
