"""The client image's health check, against real servers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from splitlearn_client.serving.https import HTTPSCertificate
from splitlearn_comm.tls import TLSFiles
from support.scripts import main_of


@pytest.fixture
def main() -> Callable[[], int]:
    return main_of("client_health")


@contextmanager
def answering(status: int, certificate: HTTPSCertificate | None = None) -> Iterator[int]:
    """The port of a server whose /ready has this status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ready" else 404)
            self.end_headers()
            self.wfile.write(b"the reason")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate is not None:
            server.socket = certificate.context.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server.server_port
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("is_encrypted", [False, True])
@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_a_client_is_healthy_when_it_is_ready(
    main: Callable[[], int],
    worker_files: TLSFiles,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_encrypted: bool,
    status: int,
    code: int,
) -> None:
    certificate = None
    if is_encrypted:
        assert worker_files.certificate is not None
        certificate = HTTPSCertificate(worker_files.certificate, worker_files.key)
        monkeypatch.setenv("SPLITLEARN_CLIENT_SSL_CERTFILE", str(worker_files.certificate))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with answering(status, certificate) as port:
        monkeypatch.setenv("SPLITLEARN_CLIENT_PORT", str(port))
        assert main() == code
    said = capsys.readouterr().out
    assert str(status) in said
    assert ("the reason" in said) is (code == 1)


def test_a_client_that_is_gone_is_unhealthy_and_the_check_says_why(
    main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(200) as port:
        monkeypatch.setenv("SPLITLEARN_CLIENT_PORT", str(port))
    assert main() == 1
    assert "refused" in capsys.readouterr().out
