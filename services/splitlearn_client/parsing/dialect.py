"""Which form a model's output is in: what its chat template and its vocabulary show, unless a setting names it.

Pure.
"""

import secrets
import string
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any, Final

from splitlearn_client.parsing.calls import Calls
from splitlearn_client.parsing.events import CallBegun
from splitlearn_client.parsing.form import Form
from splitlearn_client.parsing.forms.deepseek import DeepSeek
from splitlearn_client.parsing.forms.gemma import FORMS as GEMMA_FORMS
from splitlearn_client.parsing.forms.harmony import Harmony, read_messages
from splitlearn_client.parsing.forms.hermes import Hermes
from splitlearn_client.parsing.forms.llama3 import Llama3
from splitlearn_client.parsing.forms.mistral import Mistral
from splitlearn_client.parsing.parser import Parser, SteppedParser, read_formed, read_marked
from splitlearn_client.parsing.responses import ResponseParser, SchemaParser, SchemaReader, TemplateReader
from splitlearn_client.parsing.source import Source, Step
from splitlearn_client.parsing.thoughts import THOUGHTS, Thoughts
from splitlearn_client.text.tool_messages import WrittenCall

_LETTERS: Final = string.ascii_letters + string.digits


@dataclass(frozen=True)
class _Family:
    """Models that call tools in one form.

    Attributes:
        signs: what their chat templates have in them; one is enough.
        form: of calls, of a template.
    """

    signs: tuple[str, ...]
    form: Callable[[str], Form]

    def is_shown(self, template: str) -> bool:
        return any(sign in template for sign in self.signs)


def _gemma(template: str) -> Form:
    seen = (form for sign, form in GEMMA_FORMS.items() if sign in template)
    return next(seen, next(iter(GEMMA_FORMS.values())))


FAMILIES: Final[Mapping[str, _Family]] = {
    "harmony": _Family(("<|channel|>",), lambda _: Harmony()),
    "deepseek": _Family(("<｜tool▁calls▁begin｜>",), lambda template: DeepSeek(in_blocks="```json" in template)),
    "mistral": _Family(("[TOOL_CALLS]",), lambda template: Mistral(is_named="[ARGS]" in template)),
    "gemma": _Family(tuple(GEMMA_FORMS), _gemma),
    "hermes": _Family(("<tool_call>",), lambda _: Hermes()),
    # Llama 3.2 and 3.3 do not write the tag, and have it in their vocabulary
    "llama3": _Family(("<|python_tag|>", "<|start_header_id|>"), lambda _: Llama3()),
}
"""By the names of the setting; of several whose signs a template has, the first is meant."""
_THOUGHT_SIGNS: Final = (("gemma", "<|channel>"), ("mistral", "[THINK]"), ("think", "<think>"), ("think", "</think>"))


@dataclass(frozen=True)
class Prefix:
    """What comes before an answer.

    Attributes:
        ending: of the prompt, with special tokens; all of it where a response template is read.
        prefill: the assistant's words that the answer goes on with.
    """

    ending: str = ""
    prefill: str = ""


@dataclass(frozen=True)
class Reading:
    """How the answers to one request are taken apart.

    Attributes:
        make_parser: makes the parser of one answer; of whether it holds calls back until they are complete.
        shown: special tokens that have to be in the text.
        threads: where parsers have to be fed, as that may take long; None if anywhere.
    """

    make_parser: Callable[[bool], Parser]
    shown: frozenset[int] = frozenset()
    threads: Executor | None = None


@dataclass(frozen=True)
class Dialect:
    """The form of a model's output.

    Attributes:
        form: of calls; None if none is known.
        thoughts: what is around reasoning; None if the model has none, or calls and reasoning have one form.
        hidden: special tokens, which texts leave out, by name.
        responses: reads answers by the tokenizer's response template; None if it has none. It goes before the form,
            which is then only that of grammars.
        schema: reads answers by the tokenizer's response schema where nothing above does.
        new_identity: makes the id of a call.
    """

    form: Form | None = None
    thoughts: Thoughts | None = None
    hidden: Mapping[str, int] = field(default_factory=dict)
    responses: TemplateReader | None = None
    schema: SchemaReader | None = None
    new_identity: Callable[[], str] = lambda: f"call_{secrets.token_hex(12)}"

    @property
    def is_harmony(self) -> bool:
        """Whether whole answers are in its form."""
        return isinstance(self.form, Harmony)

    @property
    def reads_calls(self) -> bool:
        """Whether it is known how this model calls tools."""
        return any(each is not None for each in (self.form, self.responses, self.schema))

    def thinks(self, prefix: Prefix) -> bool:
        """Whether an answer begins within reasoning."""
        return self.thoughts is not None and self.thoughts.is_open(prefix.ending, prefix.prefill)

    def reading(self, tools: Mapping[str, Any], prefix: Prefix, *, is_formed: bool = False) -> Reading | None:
        """How an answer is taken apart; None if there is nothing to take apart.

        Args:
            tools: the parameters' schema of each tool that may be called, by name.
            is_formed: whether an answer without calls is in a form that was asked for.
        """
        if self.responses is not None:
            return self._by_template(self.responses, tools, prefix)
        if (schema := self.schema) is not None:
            read_all = frozenset(self.hidden.values())
            return Reading(lambda _: SchemaParser(schema, tools, self.new_identity), read_all, schema.threads)
        form = self.form if tools or self.is_harmony else None
        if form is None and self.thoughts is None:
            return None

        def parser(holds: bool) -> Parser:
            calls = Calls(tools, self.new_identity, holds=holds)

            def read(source: Source) -> Step[None]:
                if self.is_harmony:
                    return read_messages(source, calls, prefix.ending)
                read_other = read_formed if is_formed else read_marked
                return read_other(source, calls, form, self.thoughts, thinks=self.thinks(prefix))

            return SteppedParser(read)

        markers = (*(() if form is None else form.markers), *(() if self.thoughts is None else self.thoughts.tokens))
        return Reading(parser, frozenset(self.hidden[each] for each in markers if each in self.hidden))

    def reads(self, written: WrittenCall) -> bool:
        """Whether what a chat template writes for a call is read as one."""
        reading = self.reading({written.name: {}}, Prefix(written.before))
        if reading is None:
            return False
        parser = reading.make_parser(True)
        events = [*parser.feed(written.text), *parser.finish(is_cut_off=False)]
        return any(isinstance(each, CallBegun) for each in events)

    def _by_template(
        self,
        responses: TemplateReader,
        tools: Mapping[str, Any],
        prefix: Prefix,
    ) -> Reading:
        told = [{"type": "function", "function": {"name": name, "parameters": each}} for name, each in tools.items()]

        def parser(_: bool) -> Parser:
            return ResponseParser(responses.stream(prefix.ending, told), tools, self.new_identity)

        return Reading(parser, frozenset(self.hidden.values()), responses.threads)


def dialect_of(
    template: str,
    hidden: Mapping[str, int],
    form_name: str = "auto",
    thoughts_name: str = "auto",
    responses: TemplateReader | None = None,
    schema: SchemaReader | None = None,
    written: WrittenCall | None = None,
) -> Dialect:
    """The dialect of a model.

    Args:
        template: the chat template's source.
        hidden: special tokens, which texts leave out, by name.
        form_name: of `FAMILIES`; or auto or none.
        thoughts_name: of `THOUGHTS`, or harmony, auto or none.
        responses: see `Dialect`; only with auto.
        schema: see `Dialect`; only with auto, and where neither the response template nor the chat template says more,
            because nothing of an answer can be told before the schema has read all of it.
        written: what the template writes for a call. A form that is only seen in the template, which may have its
            markers for another reason, is not the model's unless it reads that.
    """
    is_seen = form_name == "auto" and thoughts_name != "harmony"
    if (form_name, thoughts_name) != ("auto", "auto"):
        responses = schema = None
    if form_name == "auto":
        form_name = next((name for name, family in FAMILIES.items() if family.is_shown(template)), "none")
    is_harmony = form_name == "harmony" or thoughts_name == "harmony"
    if thoughts_name == "auto":
        thoughts_name = "none" if is_harmony else _seen(template)
    family = FAMILIES.get("harmony" if is_harmony else form_name)
    thoughts = THOUGHTS.get(thoughts_name)
    found = Dialect(None if family is None else family.form(template), thoughts, hidden, responses)
    if form_name == "mistral":
        # its template refuses ids of any other length
        found = replace(found, new_identity=_nine_letters)
    if is_seen and responses is None and written is not None and not found.reads(written):
        found = replace(found, form=None)
    says_nothing = all(each is None for each in (found.form, thoughts, responses))
    return replace(found, schema=schema) if says_nothing else found


def _seen(template: str) -> str:
    return next((name for name, sign in _THOUGHT_SIGNS if sign in template), "none")


def _nine_letters() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(9))
