"""Renders conversations with the model's chat template, and makes sure that no message is left out.

Templates expect different forms of a message's content, and silently leave out what they do not expect. So the template
is probed: it renders conversations of probe words, which show the form of content that it takes from each role, and
whether it renders all messages of a conversation with the same shape as the request's.
"""

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog

from splitlearn_client.errors import BadModelFiles, BadRequest
from splitlearn_client.text.message_content import (
    FORCED,
    FORMS,
    ContentFormat,
    Form,
    changed_messages,
    in_form,
    said_in,
    with_one_text,
)
from splitlearn_client.text.probe_words import WORD, Probe, n_said, shape_of
from splitlearn_client.text.reasoning_effort import Effort, effort_variables
from splitlearn_client.text.template_process import TemplateFailed, TemplateUnbounded, template_process
from splitlearn_client.text.tool_messages import (
    n_calls,
    probe_call,
    probe_result,
    probe_tool,
    reasoning_names,
    shows_arguments,
    with_reasoning,
    with_text_arguments,
)

log = structlog.get_logger()

Message = Mapping[str, Any]
_MOST_SHAPES: Final = 256
# What the service gives to a template beside the tokenizer's variables.
_TAKEN: Final = ("messages", "tools", "documents", "add_generation_prompt")
# Messages and parts of messages.
_LONGEST_CACHED_SHAPE: Final = 64
# Enough for a conversation of probe words in any template.
_PROBED_CHARACTERS: Final = 1 << 22


@dataclass(frozen=True)
class Rendering:
    """How a conversation is rendered; named in requests as in vLLM.

    Attributes:
        begins_answer: whether the text goes on to where the answer begins (`add_generation_prompt`).
        continues: whether the text ends with that of the last message, with which the answer goes on
            (`continue_final_message`).
        variables: more variables of the template (`chat_template_kwargs`).
        tools: what the model may call, in OpenAI's form.
        effort: how much the model shall think; None leaves it to the template.
    """

    begins_answer: bool = True
    continues: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()
    effort: Effort | None = None


PLAIN: Final = Rendering()


class ChatTemplate:
    """Renders conversations up to where the answer begins. Blocks; may be used by several threads.

    Args:
        source: the template, in Jinja.
        variables: its variables beside the messages, such as the tokenizer's special tokens.
        content_format: "auto" probes the template, and refuses conversations that it would render incompletely;
            "string" and "openai" (lists of parts) use one form, and trust the template.

    Raises:
        BadModelFiles: the template leaves out users' messages in every form.
        TemplateUnusable: it is no template.
        TemplateUnbounded: it exceeds its limits on a plain question.
    """

    def __init__(self, source: str, variables: Mapping[str, Any], content_format: ContentFormat = "auto") -> None:
        self._process = template_process(source)
        self.source = source
        self._variables = dict(variables)
        self._format = content_format
        self._forms: dict[str, frozenset[Form]] = {}
        self._lock = threading.Lock()
        self._left_out: OrderedDict[tuple[Any, ...], int | None] = OrderedDict()
        """By shape of a conversation: the first message that is left out, or None. Guarded by the lock."""
        # a template that prints any role's name accepts every role, so only its source shows whether it knows this one
        self._names_developer = "developer" in source
        self._reasoning_names = reasoning_names(source)
        self._text_arguments: bool | None = None
        """Whether the template takes the arguments of calls as text; None before it was asked for."""
        self._ignores_tools: bool | None = None
        self._process.start()
        if content_format == "auto":
            self._check_user_messages()
            self._check_generation_prompt()
        else:
            self._check_plain_question()

    def render(self, messages: Sequence[Message], longest: int, rendering: Rendering = PLAIN) -> str:
        """The prompt's text, of at most `longest` characters.

        Args:
            messages: role, content (text, or a list of text parts) and other keys that templates may read, as name;
                `tool_calls` with arguments that are objects.

        Raises:
            BadRequest: the template refuses these messages or tools, or leaves one of them out; or `rendering` does not
                fit.
        """
        self._check_rendering(messages, rendering)
        rendering = self._with_effort(rendering)
        left_out = None
        for formed in self._forms_to_try(messages):
            text = self._accepted_text(formed, longest, rendering)
            self._check_tools(text, rendering)
            left_out = self._first_left_out(formed, text, longest, rendering) if self._format == "auto" else None
            if left_out is None:
                return _cut_behind(text, said_in(messages[-1])) if rendering.continues else text
        role = messages[left_out or 0].get("role")
        raise BadRequest(
            f"the model's chat template leaves this message (role {role!r}) out, or a part of it; "
            "put its text into a message with another role, or at another place",
            f"messages.{left_out}",
        )

    def _check_rendering(self, messages: Sequence[Message], rendering: Rendering) -> None:
        taken = next((name for name in rendering.variables if name in {*_TAKEN, *self._variables}), None)
        if taken is not None:
            raise BadRequest("the service gives this variable to the template itself", f"chat_template_kwargs.{taken}")
        if rendering.continues and rendering.begins_answer:
            raise BadRequest(
                "an answer cannot both begin and go on with the last message; send add_generation_prompt false",
                "continue_final_message",
            )
        if rendering.continues and (messages[-1].get("role") != "assistant" or not said_in(messages[-1]).strip()):
            raise BadRequest(
                "the last message must be the assistant's and have text, with which the answer goes on",
                "continue_final_message",
            )

    def _with_effort(self, rendering: Rendering) -> Rendering:
        """The effort as variables of the template; those that the request names go before."""
        if rendering.effort is None:
            return rendering
        variables = effort_variables(self.source, rendering.effort)
        if not variables:
            raise BadRequest(
                "the model's chat template has no variable for the effort, so it would change nothing; leave it out",
                "reasoning_effort",
            )
        return replace(rendering, variables={**variables, **rendering.variables}, effort=None)

    def _rendered(self, messages: Sequence[Message], longest: int, rendering: Rendering = PLAIN) -> str:
        seen = {"tools": list(rendering.tools) or None, "documents": None, "messages": messages}
        begins = {"add_generation_prompt": rendering.begins_answer}
        return self._process.render({**self._variables, **rendering.variables, **seen, **begins}, longest)

    def _accepts(self, messages: Sequence[Message], longest: int, rendering: Rendering) -> bool:
        try:
            self._rendered(messages, longest, rendering)
        except TemplateFailed:
            return False
        return True

    def _check_tools(self, text: str, rendering: Rendering) -> None:
        if not rendering.tools:
            return
        if self._ignores_tools is None:
            self._ignores_tools = self._leaves_tools_out()
        names = [str(tool["function"]["name"]) for tool in rendering.tools]
        missing = next((number for number, name in enumerate(names) if name not in text), None)
        if self._ignores_tools or missing is not None:
            raise BadRequest(
                "the model's chat template leaves this tool out, so the model would not know of it; send no tools, or "
                'tool_choice "none"',
                "tools" if missing is None or self._ignores_tools else f"tools.{missing}",
            )

    def _leaves_tools_out(self) -> bool:
        """Whether the template renders a question with and without a tool alike."""
        user = self._formed({"role": "user", "content": "word"})
        with_tool = Rendering(tools=(probe_tool(),))
        try:
            return self._rendered([user], _PROBED_CHARACTERS, with_tool) == self._rendered([user], _PROBED_CHARACTERS)
        except TemplateFailed:
            # it knows of tools, and refuses this one
            return False

    def _forms_to_try(self, messages: Sequence[Message]) -> Iterator[list[Message]]:
        """The messages in the nearest forms that the template accepts; then with one text each, if that differs.

        Some templates take lists of parts only at some places.
        """
        try:
            nearest = [self._formed(message) for message in messages]
            as_text = [self._formed(with_one_text(message)) for message in messages]
        except TemplateFailed as error:
            raise _refused(error) from error
        yield nearest
        if as_text != nearest:
            yield as_text

    def _accepted_text(self, formed: Sequence[Message], longest: int, rendering: Rendering) -> str:
        try:
            return self._rendered(formed, longest, rendering)
        except TemplateFailed as error:
            if rendering.tools and self._accepts(formed, longest, replace(rendering, tools=())):
                raise BadRequest(f"the model's chat template cannot render these tools: {error}", "tools") from error
            raise _refused(error) from error

    def _formed(self, message: Message) -> Message:
        """The message with its content in a form that the template accepts."""
        role, content = str(message["role"]), message.get("content")
        if role == "developer" and not self._knows_developer:
            role = "system"
        if n_calls(message) and self._takes_text_arguments:
            message = with_text_arguments(message)
        formed = {**with_reasoning(message, self._reasoning_names), "role": role}
        if isinstance(content, str | list):
            formed["content"] = in_form(content, self._accepted(role))
        return formed

    @property
    def _takes_text_arguments(self) -> bool:
        if self._text_arguments is None:
            user = {"role": "user", "content": in_form("word", self._accepted("user"))}
            call = probe_call()
            forms = {False: call, True: with_text_arguments(call)}
            self._text_arguments = next((form for form, each in forms.items() if self._shows(user, each)), False)
        return self._text_arguments

    def _shows(self, user: Message, call: Message) -> bool:
        try:
            return shows_arguments(self._rendered([user, call], _PROBED_CHARACTERS))
        except TemplateUnbounded:
            raise
        except TemplateFailed:
            return False

    @property
    def _knows_developer(self) -> bool:
        return self._names_developer and (self._format != "auto" or bool(self._forms_of("developer")))

    def _accepted(self, role: str) -> frozenset[Form]:
        if self._format != "auto":
            return FORCED[self._format]
        # a role that is never rendered is refused by the template, or found to be left out
        return self._forms_of(role) or frozenset({"string"})

    def _forms_of(self, role: str) -> frozenset[Form]:
        if role not in self._forms:
            found = {form: self._renders(role, form) for form in FORMS}
            self._forms[role] = frozenset(form for form, written in found.items() if written)
        return self._forms[role]

    def _renders(self, role: str, form: Form) -> bool | None:
        """Whether the template renders such a message completely and as text; None if it refuses it."""
        probe = Probe()
        content = ["word"] * (2 if form == "parts" else 1)
        message = {
            "role": role,
            "content": content[0] if form == "string" else [{"type": "text", "text": each} for each in content],
        }
        try:
            text = self._rendered(self._conversation_with(probe.shadow(message, 0)), _PROBED_CHARACTERS)
        except TemplateUnbounded:
            raise
        except TemplateFailed:
            return None
        return probe.first_left_out(text) is None

    def _conversation_with(self, message: Message) -> list[Message]:
        """The simplest conversation with this message."""
        if message["role"] == "user":
            return [message]
        user = {"role": "user", "content": in_form("word", self._accepted("user"))}
        if message["role"] == "tool":
            call = {**probe_call(), "content": in_form("", self._accepted("assistant"))}
            return [user, with_text_arguments(call) if self._takes_text_arguments else call, probe_result(message)]
        return [user, message, user] if message["role"] == "assistant" else [message, user]

    def _first_left_out(self, messages: Sequence[Message], text: str, longest: int, rendering: Rendering) -> int | None:
        """Index of the first message that the template does not render completely into the text."""
        left_out = self._left_out_by_shape(messages, longest, rendering)
        if left_out is None and (changed := changed_messages(messages, text)):
            return self._probed(messages, longest, rendering, changed)
        return left_out

    def _left_out_by_shape(self, messages: Sequence[Message], longest: int, rendering: Rendering) -> int | None:
        """Index of the first message that is not rendered completely in any conversation of this shape."""
        if rendering != PLAIN:
            return self._probed(messages, longest, rendering)
        shape = tuple(map(shape_of, messages))
        with self._lock:
            if shape in self._left_out:
                return self._left_out[shape]
        left_out = self._probed(messages, longest, rendering)
        if sum(map(n_said, messages)) <= _LONGEST_CACHED_SHAPE:
            with self._lock:
                self._left_out[shape] = left_out
                if len(self._left_out) > _MOST_SHAPES:
                    self._left_out.popitem(last=False)
        return left_out

    def _probed(
        self, messages: Sequence[Message], longest: int, rendering: Rendering, changed: Collection[int] = ()
    ) -> int | None:
        """Index of the first message of whose probe words one is missing.

        They stand in place of all texts, or, if some messages have been changed, before and after the texts of these.
        """
        probe = Probe()
        if changed:
            shadows = [probe.around(each, index) if index in changed else each for index, each in enumerate(messages)]
        else:
            shadows = [probe.shadow(each, index) for index, each in enumerate(messages)]
        try:
            text = self._rendered(shadows, longest + probe.length, rendering)
        except TemplateFailed:
            # it accepted the conversation itself, and refuses only the probe words
            return None
        return probe.first_left_out(text)

    def _check_user_messages(self) -> None:
        written = {form: self._renders("user", form) for form in FORMS}
        self._forms["user"] = frozenset(form for form, value in written.items() if value)
        if not self._forms["user"] and False in written.values():
            raise BadModelFiles(
                "the chat template leaves out users' messages or parts of them, whether content is text or a list of "
                "parts; correct chat_template.jinja (or chat_template in tokenizer_config.json), or choose one form "
                "with --chat-template-content-format string or openai"
            )
        if not self._forms["user"]:
            self._check_plain_question()

    def _check_plain_question(self) -> None:
        try:
            self._rendered([self._formed({"role": "user", "content": "word"})], _PROBED_CHARACTERS)
        except TemplateUnbounded:
            raise
        except TemplateFailed as error:
            log.warning("the chat template refuses a plain question", reason=str(error))

    def _check_generation_prompt(self) -> None:
        """Warns if the prompt lacks what the template itself writes before an answer."""
        answer = WORD
        try:
            user = self._formed({"role": "user", "content": "word"})
            prompt = self._rendered([user], _PROBED_CHARACTERS)
            reply = self._formed({"role": "assistant", "content": answer})
            whole = self._rendered([user, reply], _PROBED_CHARACTERS, Rendering(begins_answer=False))
        except TemplateFailed:
            return
        before, found, _ = whole.partition(answer)
        if found and before.startswith(prompt) and (missing := before[len(prompt) :].strip()):
            log.warning("the chat template does not begin the answer (add_generation_prompt)", missing=missing)


def _refused(error: TemplateFailed) -> BadRequest:
    return BadRequest(f"the model's chat template refuses these messages: {error}", "messages")


def _cut_behind(text: str, said: str) -> str:
    """The text up to the end of its last message's. Templates may strip a message. Raises BadRequest."""
    place = text.rfind(said.strip())
    if place < 0:
        raise BadRequest(
            "the model's chat template changes the text of the last message, so an answer cannot go on with it",
            "continue_final_message",
        )
    whole = said.lstrip()
    return text[: place + len(whole if text.startswith(whole, place) else said.strip())]
