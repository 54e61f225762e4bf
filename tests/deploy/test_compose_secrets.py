"""With certificates (deploy/compose.tls.yml) and API keys (deploy/compose.keys.yml) strangers are refused."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from openai import AuthenticationError

from support.compose_stack import COMPOSE_FILE, Stack, answered, docker

pytestmark = pytest.mark.docker

BOTH = ("trunk", "client")
KEY = "a-key-of-alice-0123456789"
CA = ("--tls-ca", "/run/secrets/ca.crt")
OWN = ("--tls-cert", "/run/secrets/client.crt", "--tls-key", "/run/secrets/client.key")
STRANGER = ("--tls-cert", "/tmp/client.crt", "--tls-key", "/tmp/client.key")


def certificates(directory: Path) -> Path:
    """Those of one authority, as docs/docker.md says."""
    words = ("certs", directory, "--host", "trunk,next", "--client", "client")
    subprocess.run([sys.executable, "-m", "splitlearn_cli", *words], check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def secured(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The same stack with certificates and keys, whose client container also has those of another authority."""
    pki = certificates(tmp_path_factory.mktemp("pki"))
    others = certificates(tmp_path_factory.mktemp("others"))
    chown = ("--user", "0", "--entrypoint", "chown", "--volume", f"{pki}:/pki", f"{stack.project}-client", "10001")
    docker("run", "--rm", *chown, "/pki/trunk.key", "/pki/client.key")
    tenants = pki / "tenants.toml"
    tenants.write_text(f'[alice]\nkeys = ["{KEY}"]\n')
    secured = replace(
        stack,
        files=(COMPOSE_FILE, "deploy/compose.tls.yml", "deploy/compose.keys.yml"),
        variables=(*stack.variables, ("TLS_DIRECTORY", str(pki)), ("TENANTS_FILE", str(tenants))),
        api_key=KEY,
    )
    try:
        secured.up("--no-deps", "--scale", "trunk=1", services=BOTH)
        for name in ("client.crt", "client.key"):
            content = (others / name).read_text()
            secured.compose("exec", "--no-TTY", "client", "sh", "-c", f"cat >/tmp/{name}", stdin=content)
        yield secured
    finally:
        stack.up("--no-deps", "--scale", "trunk=1", services=BOTH)


def info(secured: Stack, *flags: str) -> "subprocess.CompletedProcess[str]":
    """Asks the trunk from inside the network."""
    return secured.compose_that_may_fail("exec", "--no-TTY", "client", "splitlearn", "info", "trunk:50051", *flags)


def test_who_has_a_certificate_of_the_authority_is_served(secured: Stack) -> None:
    known = info(secured, *CA, *OWN)
    assert known.returncode == 0, known.stderr
    assert answered(secured)


@pytest.mark.parametrize(
    "flags", [(), CA, (*CA, *STRANGER)], ids=["in clear", "without a certificate", "with one of another authority"]
)
def test_a_stranger_is_refused(secured: Stack, flags: tuple[str, ...]) -> None:
    refused = info(secured, *flags)
    print(refused.stderr)
    assert refused.returncode != 0
    assert not refused.stdout


def test_a_request_without_a_key_of_a_tenant_is_refused(secured: Stack) -> None:
    assert answered(secured)
    with pytest.raises(AuthenticationError):
        answered(replace(secured, api_key="another-key"))


def test_no_container_has_the_key_of_the_authority_or_of_another_service(secured: Stack) -> None:
    found = {
        service: secured.python(service, "import os; print(json.dumps(sorted(os.listdir('/run/secrets'))))")
        for service in ("trunk", "client")
    }
    assert found == {
        "trunk": ["ca.crt", "trunk.crt", "trunk.key"],
        "client": ["ca.crt", "client.crt", "client.key", "tenants.toml"],
    }
