import gc
import json
import threading
import weakref
from datetime import datetime, timedelta, timezone
from typing import Any

import psutil
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from splitlearn_client.text.template_process import TemplateFailed, TemplateProcess, TemplateUnbounded, TemplateUnusable

MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": " Hi <b>you</b> & 'me' é "},
    {"role": "assistant", "content": [{"type": "text", "text": "ja"}]},
]
# Everything that transformers gives templates beyond plain Jinja.
AS_IN_TRANSFORMERS = [
    "{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m.content | trim }}\n  {% endif %}\n{% endfor %}",
    "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ 'é' | tojson(ensure_ascii=True) }}",
    "{% set ns = namespace(n=1) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "{% for m in messages %}{% generation %}{% set x = 1 %}{{ m.role }}{% endgeneration %}{{ x }}{% endfor %}",
    "{{ strftime_now('%Y') }}{{ dict(a=1).a }}{{ dict.fromkeys(['b'], 2) }}{{ bos_token }}{{ tools }}",
    "{{ 'a' * 3 ~ missing ~ messages[5] }}{% if tools is none and documents is none %}none{% endif %}",
    r"{{ '\N{BULLET} a b c' | wordwrap(3) }}{{ messages[0].content | striptags }}",
    "{% macro told(m) %}[{{ m.role }}]{% endmacro %}{{ told(messages[0]) }}{{ add_generation_prompt }}",
]


def variables(messages: list[dict[str, Any]] = MESSAGES) -> dict[str, Any]:
    return {
        "messages": messages,
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
        "bos_token": "<s>",
    }


def render(source: str, **limits: Any) -> str:
    return TemplateProcess(source, **limits).render(variables(), 1 << 20)


@pytest.mark.parametrize("source", AS_IN_TRANSFORMERS)
def test_a_template_renders_as_in_transformers(source: str) -> None:
    [expected], _ = render_jinja_template([MESSAGES], chat_template=source, add_generation_prompt=True, bos_token="<s>")
    assert render(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ messages.append(1) }}",
        "{{ namespace(__init__=1) }}",
        "{{ raise_exception.__globals__ }}x{{ raise_exception.__globals__.os.system('true') }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% include 'x' %}",
    ],
)
def test_a_template_does_not_reach_into_python(source: str) -> None:
    with pytest.raises(TemplateFailed, match=r"SecurityError|no loader"):
        render(source + "{{ ''.__class__.__mro__ }}")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ missing.name.x }}", "UndefinedError: 'missing' is undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 5 + 'a' }}", "TypeError"),
        ("{{ messages[0]['content']['x']['y'] }}", "UndefinedError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ x | nosuchfilter }}", "nosuchfilter"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{" + "(" * 5000 + ")" * 5000 + "}}", "RecursionError"),
        ("{% for i in range(10000000000) %}{% endfor %}", "Range too big"),
        ("{{ 'a' | int('x' * 10) // 0 }}", "Error"),
    ],
)
def test_a_template_s_error_is_reported_and_the_next_rendering_works(source: str, reason: str) -> None:
    process = TemplateProcess("{% if messages | length > 1 %}" + source + "{% endif %}fine")
    with pytest.raises(TemplateFailed, match=reason):
        process.render(variables(), 100)
    if "Syntax" not in reason and "nosuch" not in reason and "(((" not in source:
        assert process.render(variables(MESSAGES[:1]), 100) == "fine"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{{ (9 ** (9 ** 9)) % 7 }}",
        "{{ '%0999999999d' % 1 }}{{ '%0999999999d' % 1 }}",
        "{{ messages | tojson(indent=100000000) }}",
        "{{ lipsum(n=100000000) }}",
    ],
)
def test_a_template_that_runs_for_long_is_ended(source: str) -> None:
    with pytest.raises(TemplateFailed):
        render(source, cpu_seconds=0.3, memory_bytes=1 << 29)


def test_time_spent_within_one_call_counts_too() -> None:
    with pytest.raises(TemplateUnbounded, match=r"more than 0\.2 s"):
        render("{{ (3 ** 10000000) % 7 }}{{ (3 ** 100000000) % 7 }}", cpu_seconds=0.2)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{{ 'a' | center(100000000000) }}",
        "{{ 'a'.zfill(100000000000) }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[0]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% for i in range(99999) %}xxxxxxxxxxxxxxxxxxxx{% endfor %}",
    ],
)
def test_a_template_that_makes_much_is_ended_and_this_process_does_not_grow(source: str) -> None:
    before = psutil.Process().memory_info().rss
    with pytest.raises(TemplateFailed):
        render(source, memory_bytes=1 << 28)
    assert psutil.Process().memory_info().rss < before + (64 << 20)


def test_after_a_rendering_without_end_the_next_one_is_as_ever() -> None:
    source = "{% if messages | length > 1 %}{{ (3 ** (messages | length * 50000000)) % 7 }}{% endif %}fine"
    process = TemplateProcess(source, cpu_seconds=0.2)
    with pytest.raises(TemplateUnbounded):
        process.render(variables(), 100)
    assert process.render(variables(MESSAGES[:1]), 100) == "fine"


def test_a_dead_process_is_replaced() -> None:
    process = TemplateProcess("fine")
    assert process.render(variables(), 100) == "fine"
    running = process._process
    assert running is not None
    child = psutil.Process(running.pid)
    child.kill()
    child.wait()
    assert process.render(variables(), 100) == "fine"


def test_the_process_sees_neither_this_one_s_environment_nor_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("TZ", "UTC")
    process = TemplateProcess("fine")
    process.render(variables(), 100)
    assert process._process is not None
    seen = psutil.Process(process._process.pid)
    assert seen.environ() == {"TZ": "UTC", "OPENBLAS_NUM_THREADS": "1"}
    assert seen.rlimit(psutil.RLIMIT_NOFILE) == (0, 0)
    assert seen.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)


@pytest.mark.parametrize(("zone", "hours"), [("XXX-14", 14), ("XXX+10", -10), (None, 0)])
def test_the_time_is_that_of_the_service_s_time_zone(
    monkeypatch: pytest.MonkeyPatch, zone: str | None, hours: int
) -> None:
    monkeypatch.delenv("TZ", raising=False)
    if zone is not None:
        monkeypatch.setenv("TZ", zone)

    def now() -> str:
        there = datetime.now().astimezone() if zone is None else datetime.now(timezone(timedelta(hours=hours)))
        return there.strftime("%d %H")

    before = now()
    text = render("{{ strftime_now('%d %H') }}")
    # an hour may end meanwhile
    assert text in (before, now())


@pytest.mark.parametrize("source", ["{% if %}", "{{ x | nosuchfilter }}", "{% nosuchtag %}", "{{", "{{" + "(" * 5000])
def test_what_is_no_template_is_known_before_anything_is_rendered_and_stays_so(source: str) -> None:
    process = TemplateProcess(source)
    with pytest.raises(TemplateUnusable) as first:
        process.start()
    with pytest.raises(TemplateUnusable) as later:
        process.render(variables(), 100)
    assert later.value is first.value


def test_threads_take_turns() -> None:
    process, texts = TemplateProcess("{{ messages[0].content }}"), dict[int, str]()

    def work(number: int) -> None:
        for _ in range(20):
            texts[number] = process.render(variables([{"role": "user", "content": str(number)}]), 100)
            assert texts[number] == str(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {number: str(number) for number in range(6)}


def test_any_text_arrives_as_it_is() -> None:
    text = "".join(map(chr, [*range(1, 0x300), 0x2028, 0xD83D, 0xFFFF, 0x1F600]))
    assert json.dumps(TemplateProcess("{{ messages[0].content }}").render(variables([{"content": text}]), 10_000)) == (
        json.dumps(text)
    )


def test_the_process_ends_with_its_owner() -> None:
    process = TemplateProcess("fine")
    process.render(variables(), 100)
    assert process._process is not None
    pid, gone = process._process.pid, weakref.ref(process)
    del process
    gc.collect()
    assert gone() is None
    assert not psutil.pid_exists(pid)
