import socket
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest

from splitlearn_cli.completion import Cost, Question, Reasoning, show_answer, stream
from splitlearn_cli.errors import ServiceRefused, ServiceUnreachable

COST = {
    "completion_tokens": 2,
    "time_to_first_token_seconds": 0.125,
    "tokens_per_second": 31.5,
    "wire_bytes_sent": 12_300,
    "wire_bytes_received": 999,
    "seconds": {"bottom": 0.1},
}
CHAT = [
    {"choices": [{"delta": {"role": "assistant", "content": "Good"}}]},
    {"choices": [{"delta": {"content": " day"}, "finish_reason": "stop"}], "splitlearn": COST},
]
RAW = [{"choices": [{"text": "Good"}]}, {"choices": [{"text": " day"}], "splitlearn": COST}]


def ask(service: Any, question: Question) -> list[str | Reasoning | Cost]:
    return list(stream(service.url, question, timeout=10.0))


def test_a_question_goes_through_the_chat_template_of_the_model_that_is_served(chat_service: Any) -> None:
    chat_service.chunks = CHAT

    *text, cost = ask(chat_service, Question("Hello", 9))

    assert text == ["Good", " day"]
    assert cost == Cost(2, 0.125, 31.5, 12_300, 999)
    assert chat_service.asked == [
        (
            "/v1/chat/completions",
            {
                "model": "tiny",
                "messages": [{"role": "user", "content": "Hello"}],
                "max_tokens": 9,
                "temperature": 0.0,
                "stream": True,
            },
        )
    ]


def test_reasoning_goes_to_stderr_before_the_answer(
    chat_service: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_service.chunks = [{"choices": [{"delta": {"reasoning_content": "Is it\x1b[2J morning?"}}]}, *CHAT]
    for is_terminal, reasoning in ((False, "Is it\x1b[2J morning?\n\n"), (True, "\x1b[2mIs it[2J morning?\x1b[0m\n\n")):
        monkeypatch.setattr("sys.stderr.isatty", lambda is_terminal=is_terminal: is_terminal)
        show_answer(chat_service.url, Question("Hello", 9), timeout=10.0)
        shown = capsys.readouterr()
        assert shown.out == "Good day\n"
        assert shown.err.startswith(reasoning)


def test_a_raw_question_is_continued_as_it_stands(chat_service: Any) -> None:
    chat_service.chunks = RAW

    *text, _ = ask(chat_service, Question("Hello", 9, 0.7, seed=3, raw=True))

    assert text == ["Good", " day"]
    assert chat_service.asked == [
        (
            "/v1/completions",
            {
                "model": "tiny",
                "prompt": "Hello",
                "max_tokens": 9,
                "temperature": 0.7,
                "seed": 3,
                "stream": True,
            },
        )
    ]


def test_a_line_separator_inside_an_answer_is_part_of_it(chat_service: Any) -> None:
    chat_service.chunks = [{"choices": [{"text": "one\u2028two"}]}, {"choices": [], "splitlearn": COST}]

    text, _ = ask(chat_service, Question("Hello", 9, raw=True))

    assert text == "one\u2028two"


def test_the_cost_reads_as_one_line() -> None:
    assert str(Cost(2, 0.125, 31.5, 12_300, 999)) == (
        "2 tokens, 31.5 tokens/s, first token after 0.12 s, on the wire 12.3 kB sent, 999 B received"
    )


def test_the_answer_goes_to_stdout_and_the_cost_to_stderr(
    chat_service: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    chat_service.chunks = CHAT

    show_answer(chat_service.url, Question("Hello", 9), timeout=10.0)

    out, err = capsys.readouterr()
    assert out == "Good day\n"
    assert err.startswith("2 tokens, ")


def test_a_refusal_carries_the_services_words_and_code(chat_service: Any) -> None:
    chat_service.status = 400
    chat_service.body = {"error": {"message": "too long", "code": "context_length_exceeded"}}

    with pytest.raises(ServiceRefused, match="too long") as caught:
        ask(chat_service, Question("Hello", 9))

    assert caught.value.code == "context_length_exceeded"


def test_a_refusal_in_another_form_shows_status_and_body(chat_service: Any) -> None:
    chat_service.status = 404
    chat_service.body = {"detail": "Not Found"}

    with pytest.raises(ServiceRefused, match=r"answered 404: .*Not Found"):
        ask(chat_service, Question("Hello", 9))


def test_an_error_in_the_middle_keeps_the_text_that_came_before(
    chat_service: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    chat_service.chunks = [CHAT[0], {"error": {"message": "the trunk failed", "code": "trunk_failed"}}]

    with pytest.raises(ServiceRefused, match="the trunk failed"):
        show_answer(chat_service.url, Question("Hello", 9), timeout=10.0)

    assert capsys.readouterr().out == "Good\n"


def test_a_stream_without_its_end_is_an_error(chat_service: Any) -> None:
    chat_service.chunks, chat_service.done = CHAT, False

    with pytest.raises(ServiceUnreachable, match="stopped before its end"):
        ask(chat_service, Question("Hello", 9))


def test_an_unreachable_address_says_how_to_start_a_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    with pytest.raises(ServiceUnreachable, match="splitlearn up"):
        list(stream(f"http://127.0.0.1:{port}", Question("Hello", 9), timeout=5.0))


def test_an_address_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ServiceUnreachable, match="localhost:8000"):
        list(stream("localhost:8000", Question("Hello", 9), timeout=5.0))


@pytest.fixture
def silent_address() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_silent_service_is_given_up(silent_address: str) -> None:
    with pytest.raises(ServiceUnreachable, match="sent nothing for too long"):
        list(stream(silent_address, Question("Hello", 9), timeout=0.05))


def test_a_port_with_another_protocol_is_another_error_than_an_unused_port() -> None:
    def answer_as_a_trunk_would() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            # the settings frame that gRPC's HTTP/2 begins with
            connection.sendall(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = Thread(target=answer_as_a_trunk_would)
        answering.start()
        with pytest.raises(ServiceUnreachable, match="does not speak HTTP; give the address of a client service"):
            list(stream(f"http://127.0.0.1:{listening.getsockname()[1]}", Question("Hello", 9), timeout=10.0))
        answering.join()
