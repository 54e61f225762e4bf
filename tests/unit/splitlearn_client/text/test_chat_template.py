from typing import Any

import pytest

from splitlearn_client.errors import BadModelFiles, BadRequest
from splitlearn_client.text.chat_template import ChatTemplate, Message, Rendering
from splitlearn_client.text.message_content import ContentFormat
from splitlearn_client.text.template_process import TemplateUnbounded, TemplateUnusable
from splitlearn_client.text.tool_messages import probe_tool
from support.tiny_models import TEMPLATE

LONG = 1 << 20
PARTS = "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{{ p.text }}|{% endfor %}{% endfor %}[assistant]"
BOTH = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for p in m.content %}{{ p.text }}|{% endfor %}{% endif %}{% endfor %}[assistant]"
)
FIRST_PART = "{% for m in messages %}[{{ m.role }}]{{ m.content[0].text }}{% endfor %}[assistant]"
# as in Llama 3.2: parts for users, text for the system message
MIXED = (
    "{% if messages[0].role == 'system' %}[system]{{ messages[0].content | trim }}{% set messages = messages[1:] %}"
    "{% endif %}" + BOTH
)
WITHOUT_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
)
SYSTEM_FIRST = (
    "{% if messages[0].role == 'system' %}[system]{{ messages[0].content }}{% endif %}"
    "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
LAST_ONLY = "[{{ messages[-1].role }}]{{ messages[-1].content }}"
REASONING = (
    "{% for m in messages %}[{{ m.role }}]"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content | trim }}{% endfor %}"
)


def said(role: str, content: str | list[str], **more: str) -> dict[str, Any]:
    told = content if isinstance(content, str) else [{"type": "text", "text": text} for text in content]
    return {"role": role, "content": told, **more}


def render(source: str, *messages: dict[str, Any], **options: Any) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}, **options).render(messages, LONG)


CONVERSATION = [said("system", ["Be ", "short."]), said("assistant", "me"), said("user", ["who", "?"])]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (TEMPLATE, "system: Be short.\nassistant: me\nuser: who?\nassistant:"),
        (PARTS, "[system]Be |short.|[assistant]me|[user]who|?|[assistant]"),
        (BOTH, "[system]Be |short.|[assistant]me[user]who|?|[assistant]"),
        (FIRST_PART, "[system]Be short.[assistant]me[user]who?[assistant]"),
        (MIXED, "[system]Be short.[assistant]me[user]who|?|[assistant]"),
    ],
    ids=["string", "parts", "both", "first part", "by role"],
)
def test_content_comes_in_the_form_that_the_template_takes_from_each_role(source: str, text: str) -> None:
    assert render(source, *CONVERSATION) == text


@pytest.mark.parametrize("dump", ["{{ m.content }}", "{{ m.content | tojson }}", "{{ m.content | upper }}"])
def test_parts_written_out_as_they_are_are_not_taken_for_text(dump: str) -> None:
    text = render("{% for m in messages %}" + dump + "{% endfor %}", said("user", ["one ", "two"]))
    assert text.strip('"').lower() == "one two"


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}[{{ m.role }}]{{ m.text }}{% endfor %}",
        "{% for m in messages %}{% for p in m.content if p.type == 'image' %}{{ p.text }}{% endfor %}{% endfor %}",
        "Always the same.",
        "{% for m in messages %}{{ m.content[0].words }}{% endfor %}",
        "{% for m in messages %}{% if m.content is string %}{{ raise_exception('parts!') }}{% endif %}{% endfor %}",
    ],
)
def test_a_template_without_the_user_s_words_is_an_error_at_start(source: str) -> None:
    with pytest.raises(BadModelFiles, match=r"leaves out users' messages.*--chat-template-content-format"):
        ChatTemplate(source, {})


def test_one_form_can_be_insisted_on() -> None:
    two = said("user", ["one ", "two"])
    assert render(BOTH, two, content_format="string") == "[user]one two[assistant]"
    assert render(BOTH, said("user", "one"), content_format="openai") == "[user]one|[assistant]"
    assert render("Always the same.", two, content_format="string") == "Always the same."


@pytest.mark.parametrize(
    ("source", "roles", "left_out"),
    [
        (WITHOUT_SYSTEM, ["system", "user"], 0),
        (WITHOUT_SYSTEM, ["user"], None),
        (SYSTEM_FIRST, ["system", "user"], None),
        (SYSTEM_FIRST, ["user", "system", "user"], 1),
        (SYSTEM_FIRST, ["system", "system", "user"], 1),
        (LAST_ONLY, ["user"], None),
        (LAST_ONLY, ["user", "assistant", "user"], 0),
        (LAST_ONLY, ["user", "user"], 0),
        (TEMPLATE, ["system", "user", "user", "assistant", "assistant", "system"], None),
        (REASONING, ["user", "assistant", "user"], None),
    ],
)
def test_a_message_that_the_template_leaves_out_is_refused_wherever_it_stands(
    source: str, roles: list[str], left_out: int | None
) -> None:
    template = ChatTemplate(source, {})
    messages = [said(role, f" <think>{role}</think> words {i}\n") for i, role in enumerate(roles)]
    for _ in range(2):
        if left_out is None:
            text = template.render(messages, LONG)
            assert all(f"words {i}" in text for i in range(len(roles)))
        else:
            with pytest.raises(BadRequest, match=f"role '{roles[left_out]}'") as refused:
                template.render(messages, LONG)
            assert refused.value.param == f"messages.{left_out}"


def test_results_for_long_conversations_are_not_cached() -> None:
    template = ChatTemplate(BOTH, {})
    template.render([said("user", ["a"] * 60)], LONG)
    assert len(template._left_out) == 1
    template.render([said("user", ["a"] * 5000)], LONG)
    template.render([said("user", "a")] * 5000, LONG)
    assert len(template._left_out) == 1


def test_a_message_of_nothing_may_be_left_out() -> None:
    assert render(WITHOUT_SYSTEM, said("system", " "), said("user", "hi"), {"role": "assistant", "content": None})


def test_a_part_that_the_template_leaves_out_is_put_with_the_others() -> None:
    source = (
        "{% for m in messages %}{{ m.content[0].text }}"
        "{% if m.content | length == 3 %}{{ m.content[1].text }}{% endif %}{% endfor %}"
    )
    assert render(source, said("user", ["one ", "two ", "three"])) == "one two three"


def test_the_developer_is_the_system_where_the_template_does_not_know_one() -> None:
    knowing = (
        "{% for m in messages %}{{ '[dev]' if m.role == 'developer' else '[' ~ m.role ~ ']' }}{{ m.content }}"
        "{% endfor %}"
    )
    developer = said("developer", "Be short.")
    assert render(knowing, developer, said("user", "hi")) == "[dev]Be short.[user]hi"
    assert render(TEMPLATE, developer, said("user", "hi")) == "system: Be short.\nuser: hi\nassistant:"
    # its name alone is not enough
    dropping = "{% for m in messages if m.role != 'developer' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    assert render(dropping, developer, said("user", "hi")) == "[system]Be short.[user]hi"


def test_names_reach_the_template() -> None:
    source = "{% for m in messages %}{{ m.name | default(m.role) }}: {{ m.content }}\n{% endfor %}"
    assert render(source, said("user", "hi", name="Ann"), said("user", "ho")) == "Ann: hi\nuser: ho\n"


@pytest.mark.parametrize("role", ["system", "user"])
def test_a_template_s_own_refusal_is_passed_on(role: str) -> None:
    source = (
        f"{{% for m in messages %}}{{% if m.role == '{role}' %}}{{{{ raise_exception('no {role}s here') }}}}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(BadRequest, match=f"refuses these messages: no {role}s here") as refused:
        render(source, said("system", "x"), said("user", "hi"))
    assert refused.value.param == "messages"


@pytest.mark.parametrize("content_format", ["auto", "string", "openai"])
def test_what_is_no_template_is_found_at_start(content_format: ContentFormat) -> None:
    with pytest.raises(TemplateUnusable, match="TemplateSyntaxError"):
        ChatTemplate("{% if %}", {}, content_format)


@pytest.mark.parametrize("source", ["{{ 1 / 0 }}", "{{ x.y.z }}", "{{ messages[0].content + 5 }}"])
def test_a_broken_template_is_the_request_s_error_with_its_reason(source: str) -> None:
    with pytest.raises(BadRequest, match="Error"):
        render(source, said("user", "hi"))


def test_a_template_without_end_is_found_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitlearn_client.text.template_process.CPU_SECONDS", 0.3)
    with pytest.raises(TemplateUnbounded):
        ChatTemplate("{% for i in range(99998) %}{% for j in range(99998) %}{% endfor %}{% endfor %}", {})


def test_words_that_make_a_template_fail_are_no_reason_to_refuse_others() -> None:
    source = "{% for m in messages %}{{ 1 / 0 if 'zero' in m.content else m.content }}{% endfor %}"
    template = ChatTemplate(source, {})
    with pytest.raises(BadRequest, match="ZeroDivisionError"):
        template.render([said("user", "zero")], LONG)
    assert template.render([said("user", "one")], LONG) == "one"


def test_a_text_longer_than_the_limit_is_refused() -> None:
    with pytest.raises(BadRequest, match="more than 100 characters"):
        ChatTemplate(TEMPLATE, {}).render([said("user", "x" * 200)], 100)


def test_conversations_of_the_same_shape_are_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    template, rendered = ChatTemplate(TEMPLATE, {}), list[int]()
    whole = template._rendered
    monkeypatch.setattr(template, "_rendered", lambda *args, **more: rendered.append(1) or whole(*args, **more))
    for words in ("one", "two", "three"):
        template.render([said("user", words)], LONG)
    assert len(rendered) == 4


TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}<end>{% endfor %}"
ANSWERING = TURNS + "{% if add_generation_prompt %}[assistant]{% if thinks is false %}<nothink>{% endif %}{% endif %}"


def rendered(source: str, *messages: Message, **rendering: Any) -> str:
    template = ChatTemplate(source, {"bos_token": "<s>"})
    return template.render(messages, LONG, Rendering(**rendering))


def test_an_answer_begins_only_if_it_is_asked_for() -> None:
    asked = said("user", "hi")
    assert rendered(ANSWERING, asked) == "[user]hi<end>[assistant]"
    assert rendered(ANSWERING, asked, begins_answer=False) == "[user]hi<end>"


@pytest.mark.parametrize("words", ["It is", " It is ", "It is\n"])
def test_an_answer_goes_on_with_the_last_message(words: str) -> None:
    conversation = [said("user", "It is?"), said("assistant", words)]
    text = rendered(ANSWERING, *conversation, begins_answer=False, continues=True)
    # the template strips the message
    assert text == "[user]It is?<end>[assistant]It is"
    kept = ANSWERING.replace(" | trim", "")
    text = rendered(kept, *conversation, begins_answer=False, continues=True)
    assert text.rstrip() == "[user]It is?<end>[assistant]" + words.rstrip()
    assert text.endswith(words)


@pytest.mark.parametrize(
    ("messages", "rendering", "words"),
    [
        ([said("user", "hi")], {"begins_answer": False}, "must be the assistant's"),
        ([said("user", "hi"), said("assistant", " ")], {"begins_answer": False}, "and have text"),
        ([said("user", "hi"), said("assistant", "It")], {}, "send add_generation_prompt false"),
    ],
)
def test_what_cannot_be_continued_is_refused(messages: list[Message], rendering: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words) as refused:
        rendered(ANSWERING, *messages, continues=True, **rendering)
    assert refused.value.param == "continue_final_message"


def test_a_template_that_changes_the_last_message_cannot_continue_it() -> None:
    source = ANSWERING.replace("| trim", "| upper")
    with pytest.raises(BadRequest, match="changes the text"):
        rendered(source, said("user", "hi"), said("assistant", "It is"), begins_answer=False, continues=True)


def test_a_template_gets_the_variables_of_the_request() -> None:
    assert rendered(ANSWERING, said("user", "hi"), variables={"thinks": False}).endswith("[assistant]<nothink>")
    assert rendered(ANSWERING, said("user", "hi"), variables={"thinks": True}).endswith("[assistant]")


@pytest.mark.parametrize("name", ["messages", "tools", "documents", "add_generation_prompt", "bos_token"])
def test_a_variable_of_the_service_is_not_the_requests(name: str) -> None:
    with pytest.raises(BadRequest, match="the service gives this variable") as refused:
        rendered(ANSWERING, said("user", "hi"), variables={name: "x"})
    assert refused.value.param == f"chat_template_kwargs.{name}"


def test_a_message_that_is_left_out_for_a_variables_sake_is_refused_and_only_then() -> None:
    told = "{% if m.role == 'user' or not short %}[{{ m.role }}]{{ m.content }}{% endif %}"
    source = "{% for m in messages %}" + told + "{% endfor %}"
    template = ChatTemplate(source, {})
    conversation = [said("system", "be brief"), said("user", "hi")]
    for _ in range(2):
        assert "brief" in template.render(conversation, LONG)
        with pytest.raises(BadRequest, match="leaves this message"):
            template.render(conversation, LONG, Rendering(variables={"short": True}))


THINKS = BOTH + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"


def test_an_effort_is_told_to_the_template_and_what_the_request_names_itself_goes_before() -> None:
    template, asked = ChatTemplate(THINKS, {}), [said("user", "hi")]
    assert template.render(asked, LONG, Rendering(effort="none")).endswith("<think></think>")
    assert template.render(asked, LONG, Rendering(effort="low")) == template.render(asked, LONG)
    named = Rendering(effort="low", variables={"enable_thinking": False})
    assert template.render(asked, LONG, named).endswith("<think></think>")


def test_an_effort_that_would_change_nothing_is_refused() -> None:
    with pytest.raises(BadRequest, match="no variable for the effort") as refused:
        ChatTemplate(BOTH, {}).render([said("user", "hi")], LONG, Rendering(effort="high"))
    assert refused.value.param == "reasoning_effort"


# as in Llama 3.2 with tools: parts everywhere but in the message that the tools stand in
PARTS_WITHOUT_TOOLS = (
    "{% if tools %}{{ tools | tojson }}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}"
    + BOTH
)
PARTS_AT_THE_END = (
    "{% for m in messages %}{% if loop.last and m.content is not string %}{% for p in m.content %}{{ p.text }}"
    "{% endfor %}{% else %}{{ m.content }}{% endif %}|{% endfor %}"
)


@pytest.mark.parametrize("dump", ["m.content", "m.content | tojson"])
@pytest.mark.parametrize("source", [PARTS_AT_THE_END, PARTS_AT_THE_END.replace("loop.last", "loop.first")])
def test_text_is_sent_where_a_template_writes_out_lists_at_some_places(source: str, dump: str) -> None:
    text = render(source.replace("{{ m.content }}", "{{ " + dump + " }}"), said("user", ["a ", "b"]), *CONVERSATION[1:])
    assert text.replace('"', "") == "a b|me|who?|"


def test_text_is_sent_where_a_template_writes_out_lists_beside_tools() -> None:
    template = ChatTemplate(PARTS_WITHOUT_TOOLS, {})
    messages = [said("user", ["who ", "?"]), said("assistant", "me"), said("user", ["and ", "I?"])]
    assert template.render(messages, LONG) == "[user]who |?|[assistant]me[user]and |I?|[assistant]"
    text = template.render(messages, LONG, Rendering(tools=(probe_tool(),)))
    assert text.endswith("]who ?[assistant]me[user]and I?[assistant]")


def test_a_message_is_refused_where_lists_are_written_out_and_no_text_is_taken() -> None:
    source = PARTS.replace("p.text", "p.text if m == messages[-1] else p")
    with pytest.raises(BadRequest, match=r"leaves this message .* out, or a part of it") as refused:
        render(source, said("user", ["one ", "two"]), said("user", ["three"]))
    assert refused.value.param == "messages.0"


@pytest.mark.parametrize(
    "shown",
    [
        "m.content | truncate(60)",
        "m.content | truncate",
        "m.content[:40]",
        "m.content[-40:]",
        "m.content[:20] ~ m.content[-20:]",
        "m.content.split('\\n')[0]",
        "m.content.split(' ')[0]",
        "(m.content | trim).splitlines()[-1]",
    ],
)
def test_a_template_that_shows_a_part_of_a_text_is_an_error_at_start(shown: str) -> None:
    with pytest.raises(BadModelFiles, match=r"leaves out users' messages or parts of them"):
        ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ " + shown + " }}{% endfor %}", {})


def test_a_message_of_which_the_template_shows_a_part_is_refused() -> None:
    source = "{% for m in messages %}{{ m.content if loop.last else m.content[:40] }}|{% endfor %}"
    assert render(source, said("user", "hello")) == "hello|"
    with pytest.raises(BadRequest, match=r"leaves this message .* out, or a part of it") as refused:
        render(source, said("user", "hello"), said("assistant", "me"), said("user", "so?"))
    assert refused.value.param == "messages.0"


@pytest.mark.parametrize(
    "shown",
    [
        "m.content | trim",
        "m.content | upper",
        "m.content.strip('\\n') | replace('\\n', ' ')",
        "m.content | indent(2)",
        "m.content.split('</think>')[-1].lstrip('\\n')",
        "m.content.splitlines() | join('\\r\\n')",
    ],
)
def test_a_template_may_change_blanks_and_letters(shown: str) -> None:
    text = render("{% for m in messages %}{{ " + shown + " }}|{% endfor %}", said("user", " one\ntwo three \n"))
    assert text.lower().split() in (["one", "two", "three", "|"], ["one", "two", "three|"])


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ("m.content.split('</think>')[-1]", "what does </think> mean?"),
        ("m.content.split('###')[0]", "see below ### this"),
        ("m.content | truncate(3000)", "word " * 1000),
        ("m.content[-3000:]", "word " * 1000),
    ],
)
@pytest.mark.parametrize("is_list", [True, False])
def test_a_text_that_the_template_cuts_is_refused_and_others_are_not(shown: str, text: str, is_list: bool) -> None:
    source = "{% for m in messages %}{{ m.content.split('@')[-1] if m.role == 'assistant' else " + shown
    source += " }}|{% endfor %}"
    content = [text] if is_list else text
    assert render(source, said("assistant", "thought @ answer"), said("user", "hello")) == " answer|hello|"
    with pytest.raises(BadRequest, match=r"leaves this message .* out, or a part of it") as refused:
        render(source, said("user", "hello"), said("user", content))
    assert refused.value.param == "messages.1"


def test_a_template_may_write_texts_in_another_order() -> None:
    last = "{% for m in messages if m.role != 'system' %}{% if loop.last and messages[0].role == 'system' %}"
    source = last + "{{ messages[0].content }};{% endif %}{{ m.content }}|{% endfor %}"
    text = render(source, said("system", "rules"), said("user", "one"), said("assistant", "two"), said("user", "three"))
    assert text == "one|two|rules;three|"
