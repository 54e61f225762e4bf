"""With deploy/compose.tls.yml client and workers authenticate each other."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.compose_stack import COMPOSE_FILE, Stack, answered, docker

pytestmark = pytest.mark.docker

BOTH = ("trunk", "client")
CA = ("--tls-ca", "/run/secrets/ca.crt")
OWN = ("--tls-cert", "/run/secrets/client.crt", "--tls-key", "/run/secrets/client.key")
STRANGER = ("--tls-cert", "/tmp/client.crt", "--tls-key", "/tmp/client.key")


def certificates(directory: Path) -> Path:
    """Those of one authority, as docs/docker.md says."""
    words = ("certs", directory, "--host", "trunk,next", "--client", "client")
    subprocess.run([sys.executable, "-m", "splitlearn_cli", *words], check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def tls(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The same stack with certificates, whose client container also has those of another authority."""
    pki = certificates(tmp_path_factory.mktemp("pki"))
    others = certificates(tmp_path_factory.mktemp("others"))
    chown = ("--user", "0", "--entrypoint", "chown", "--volume", f"{pki}:/pki", f"{stack.project}-client", "10001")
    docker("run", "--rm", *chown, "/pki/trunk.key", "/pki/client.key")
    tls = replace(
        stack, files=(COMPOSE_FILE, "deploy/compose.tls.yml"), variables=(*stack.variables, ("TLS_DIRECTORY", str(pki)))
    )
    try:
        tls.up("--no-deps", "--scale", "trunk=1", services=BOTH)
        for name in ("client.crt", "client.key"):
            content = (others / name).read_text()
            tls.compose("exec", "--no-TTY", "client", "sh", "-c", f"cat >/tmp/{name}", stdin=content)
        yield tls
    finally:
        stack.up("--no-deps", "--scale", "trunk=1", services=BOTH)


def info(tls: Stack, *flags: str) -> "subprocess.CompletedProcess[str]":
    """Asks the trunk from inside the network."""
    return tls.compose_that_may_fail("exec", "--no-TTY", "client", "splitlearn", "info", "trunk:50051", *flags)


def test_who_has_a_certificate_of_the_authority_is_served(tls: Stack) -> None:
    known = info(tls, *CA, *OWN)
    assert known.returncode == 0, known.stderr
    assert answered(tls)


@pytest.mark.parametrize(
    "flags", [(), CA, (*CA, *STRANGER)], ids=["in clear", "without a certificate", "with one of another authority"]
)
def test_a_stranger_is_refused(tls: Stack, flags: tuple[str, ...]) -> None:
    refused = info(tls, *flags)
    print(refused.stderr)
    assert refused.returncode != 0
    assert not refused.stdout


def test_no_container_has_the_key_of_the_authority_or_of_another_service(tls: Stack) -> None:
    found = {
        service: tls.python(service, "import os; print(json.dumps(sorted(os.listdir('/run/secrets'))))")
        for service in ("trunk", "client")
    }
    assert found == {
        "trunk": ["ca.crt", "trunk.crt", "trunk.key"],
        "client": ["ca.crt", "client.crt", "client.key"],
    }
