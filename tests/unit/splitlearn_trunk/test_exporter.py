"""The metrics port over real sockets: what it answers, and who cannot stop it."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from splitlearn_trunk.exporter import MAX_CONNECTIONS, exported
from splitlearn_trunk.listening import address_of, bound

PATIENCE = 20.0


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("sips", "Of coffee.", registry=registry).inc(3)
    return registry


@pytest.fixture(scope="module")
def port(registry: CollectorRegistry) -> Iterator[int]:
    listening = bound("127.0.0.1", 0, "--metrics-port")
    with exported(registry, listening):
        yield address_of(listening)[1]


def ask(port: int, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_metrics_are_answered_in_the_format_that_prometheus_asks_for(port: int) -> None:
    answer, body = ask(port, "GET", "/metrics")
    assert (answer.status, answer.getheader("Content-Type")) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"\nsips_total 3.0\n" in body
    answer, body = ask(port, "GET", "/metrics?x=1", Accept="application/openmetrics-text; version=1.0.0")
    assert str(answer.getheader("Content-Type")).startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_head_answers_without_a_body(port: int) -> None:
    answer, body = ask(port, "HEAD", "/metrics")
    assert (answer.status, body) == (200, b"")
    assert int(answer.getheader("Content-Length") or 0) > 0


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/metrics/", "/metricsx", "/../metrics", "*"])
def test_every_other_path_is_not_found(port: int, path: str) -> None:
    for method in ("GET", "HEAD"):
        answer, body = ask(port, method, path)
        assert answer.status == 404
        assert b"sips" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_every_other_method_is_refused_with_those_that_are_allowed(port: int, method: str) -> None:
    answer, _ = ask(port, method, "/metrics")
    assert (answer.status, answer.getheader("Allow")) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"BREW /metrics HTTP/1.1\r\n\r\n", b"\x16\x03\x01"]
)
def test_what_is_no_request_is_no_answer_with_metrics_and_stops_nothing(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as stranger:
        stranger.sendall(sent)
        stranger.shutdown(socket.SHUT_WR)
        while piece := stranger.recv(65536):
            assert b"sips" not in piece
    assert ask(port, "GET", "/metrics")[0].status == 200


def test_connections_that_say_nothing_or_little_or_read_nothing_hold_up_nobody(port: int) -> None:
    with ExitStack() as stack:
        slow = []
        for number in range(10 * MAX_CONNECTIONS):
            stranger = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
            stranger.sendall((b"", b"GET /metrics HT", b"GET /metrics HTTP/1.1\r\nX: ")[number % 3])
            slow.append(stranger)
        assert ask(port, "GET", "/metrics")[0].status == 200
        # the oldest were told to go
        assert slow[0].recv(1) == b""


def test_a_metric_that_cannot_be_read_costs_its_reader_the_answer_and_nobody_else(
    registry: CollectorRegistry, port: int
) -> None:
    broken = Gauge("broken", "At times.", registry=registry)
    broken.set_function(lambda: 1 / 0)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        ask(port, "GET", "/metrics")
    registry.unregister(broken)
    assert ask(port, "GET", "/metrics")[0].status == 200


def test_the_port_is_free_again_at_the_end(registry: CollectorRegistry) -> None:
    listening = bound("127.0.0.1", 0, "--metrics-port")
    port = address_of(listening)[1]
    with exported(registry, listening):
        ask(port, "GET", "/metrics")
    bound("127.0.0.1", port, "--metrics-port").close()
