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
    """Indices of the messages that a rendered text may not hold as they are, but for blanks about them.

    They are all from the first one on that does not come behind those before it: to search for each in all of the text
    would take minutes for many messages. Those of the assistant are left out: of these, templates drop what was
    thought. So are those without a text.
    """
    said = [
        (index, each.strip())
        for index, message in enumerate(messages)
        if message["role"] != "assistant"
        for each in texts_of(message)
        if each.strip()
    ]
    place = 0
    for number, (_, each) in enumerate(said):
        found = text.find(each, place)
        if found < 0:
            return frozenset(index for index, _ in said[number:])
        place = found + len(each)
    return frozenset()


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
