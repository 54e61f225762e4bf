"""Containers as a newcomer starts them: one compose project, and what tests ask of it."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

ROOT = Path(__file__).parents[2]
QUESTION = "What does shutil.copyfile do?"
# What would make compose start something else than the defaults.
FOREIGN = (
    *("COMPOSE_", "OTEL_", "MODEL", "LAYERS", "DTYPE", "TRUNK_", "NEXT_", "CLIENT_", "PROMETHEUS_", "GRAFANA_"),
    *("BASE_IMAGE", "IMAGE_", "GPU_", "TLS_", "TENANTS_"),
)
METRICS_DEADLINE = 90.0
# The default ones and Prometheus.
SERVICES = ("client", "prometheus")
COMPOSE_FILE = "docker-compose.yml"


@dataclass(frozen=True)
class Stack:
    """One compose project; every call runs docker compose and fails the test with its stderr.

    Attributes:
        variables: what `.env` would say.
        files: docker-compose.yml and overrides.
        root: the checkout.
        api_key: what requests send.
    """

    project: str
    ports: str = "0"
    variables: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = (COMPOSE_FILE,)
    root: Path = ROOT
    api_key: str = "none"

    def compose(self, *words: str, stdin: str | None = None) -> str:
        done = self.compose_that_may_fail(*words, stdin=stdin)
        if done.returncode:
            pytest.fail(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
        return done.stdout

    def compose_that_may_fail(self, *words: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        chosen = [word for name in self.files for word in ("--file", name)]
        command = ["docker", "compose", "--env-file", os.devnull, "--project-name", self.project, *chosen, *words]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        ports = {"CLIENT_PORT": self.ports, "PROMETHEUS_PORT": self.ports} if self.ports else {}
        return subprocess.run(
            command,
            cwd=self.root,
            env=clean | ports | dict(self.variables),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def config(self) -> dict[str, Any]:
        services: dict[str, Any] = json.loads(self.compose("config", "--format", "json"))["services"]
        return services

    def up(self, *words: str, services: tuple[str, ...] = SERVICES) -> None:
        """Until these services and those that they need are healthy; a free port may be another one afterwards."""
        self.compose("up", "--detach", "--wait", "--wait-timeout", "300", *words, *services)

    def address(self, service: str, port: int) -> str:
        return f"http://{self.compose('port', service, str(port)).strip()}"

    def python(self, service: str, code: str) -> Any:
        """What `code` prints inside the service's first container, read as JSON."""
        return python_in(self.containers(service)[0], code)

    def containers(self, *services: str) -> list[str]:
        return self.compose("ps", "--all", "--quiet", *services).split()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Prometheus's answer to an instant query."""
        with httpx.Client(base_url=self.address("prometheus", 9090), trust_env=False) as http:
            answer = http.get("/api/v1/query", params={"query": expression}).raise_for_status().json()
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def openai(self) -> OpenAI:
        return OpenAI(base_url=f"{self.address('client', 8000)}/v1", api_key=self.api_key, max_retries=0, timeout=60)


def docker(*words: str | Path) -> str:
    """What docker prints; fails the test with its stderr."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"docker {words[0]}: exit {done.returncode}\n{done.stderr[-6000:]}")
    return done.stdout


def python_in(container: str, code: str) -> Any:
    """What `code` prints there, read as JSON."""
    return json.loads(docker("exec", container, "python", "-c", f"import json\n{code}"))


def eventually(seen: Callable[[], Any], good: Callable[[Any], bool]) -> None:
    """Prometheus asks in its own time, and so does DNS; only waiting tells when they have."""
    deadline = time.monotonic() + METRICS_DEADLINE
    while not good(last := seen()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {METRICS_DEADLINE:.0f} s; last seen: {last}")
        time.sleep(0.5)


def ask(stack: Stack, max_tokens: int) -> None:
    with stack.openai() as client:
        model = client.models.list().data[0].id
        messages: Any = [{"role": "user", "content": QUESTION}]
        client.chat.completions.create(model=model, messages=messages, max_tokens=max_tokens, temperature=0)


def answered(stack: Stack, seen: Callable[[int], None] = lambda _n_chunks: None) -> str:
    """The streamed answer to the question; `seen` is called with the number of chunks so far."""
    with stack.openai() as client:
        return streamed(client, seen)


def streamed(client: OpenAI, seen: Callable[[int], None] = lambda _n_chunks: None) -> str:
    """The same of a client that is there."""
    model = client.models.list().data[0].id
    messages: Any = [{"role": "user", "content": QUESTION}]
    words = []
    for chunk in client.chat.completions.create(model=model, messages=messages, temperature=0, stream=True):
        words.append(chunk.choices[0].delta.content or "")
        seen(len(words))
    return "".join(words)


def sessions(stack: Stack) -> dict[str, float]:
    """Sessions that each trunk has opened, from its own /metrics."""
    code = (
        "from urllib.request import urlopen\n"
        "lines = urlopen('http://127.0.0.1:9101/metrics').read().decode().splitlines()\n"
        "print([float(l.split()[1]) for l in lines if l.startswith('splitlearn_trunk_sessions_total ')][0])"
    )
    return {trunk: float(python_in(trunk, code)) for trunk in stack.containers("trunk")}


def failovers(stack: Stack) -> float:
    """How often sessions have gone on with another trunk, from the client's own /metrics."""
    return from_metrics(stack, "splitlearn_client_failovers_t")


def ready_replicas(stack: Stack) -> float:
    """How many trunks the client can use now, from its own /metrics."""
    return from_metrics(stack, 'splitlearn_client_trunk_replicas{state="ready"}')


def from_metrics(stack: Stack, beginning: str) -> float:
    """The sum of the client's metrics whose lines begin so."""
    text = httpx.get(f"{stack.address('client', 8000)}/metrics", trust_env=False).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(beginning))
