"""The containers as a newcomer starts them: `docker compose up`, with the model that ships."""

import errno
import inspect
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import pytest
from openai import OpenAI

from llm_sepweight.layout import MANIFEST_FILE, file_name, section_name
from splitlearn.checkpoints.tokenizer_files import TOKENIZER_FILES

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
QUESTION = "What does shutil.copyfile do?"
# of cleangpt only the models
NEVER_IN_A_TRUNK = (
    "splitlearn_client",
    "cleangpt.trainers",
    "cleangpt.tokenizers",
    "sentencepiece",
    "fastapi",
    "starlette",
    "uvicorn",
)
# What would make compose start something else than the defaults.
FOREIGN = ("COMPOSE_", "OTEL_", "MODEL", "LAYERS", "DTYPE", "TRUNK_", "NEXT_", "CLIENT_", "PROMETHEUS_", "GRAFANA_")
METRICS_DEADLINE = 90.0
# The default ones and Prometheus. Grafana's image may not be at hand; test_observability.py looks at its files.
SERVICES = ("client", "prometheus")


@dataclass(frozen=True)
class Stack:
    """One compose project; every call runs docker compose and fails the test with its stderr."""

    project: str
    ports: str = "0"
    variables: tuple[tuple[str, str], ...] = ()

    def compose(self, *words: str, files: tuple[str, ...] = ("docker-compose.yml",), stdin: str | None = None) -> str:
        chosen = [word for name in files for word in ("--file", name)]
        command = ["docker", "compose", "--env-file", os.devnull, "--project-name", self.project, *chosen, *words]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        ports = {"CLIENT_PORT": self.ports, "PROMETHEUS_PORT": self.ports} if self.ports else {}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=clean | ports | dict(self.variables),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
        return done.stdout

    def config(self, *files: str) -> dict[str, Any]:
        services: dict[str, Any] = json.loads(self.compose("config", "--format", "json", files=files))["services"]
        return services

    def up(self, *words: str, services: tuple[str, ...] = SERVICES) -> None:
        """Until these services and those that they need are healthy; a free port may be another one afterwards."""
        self.compose("up", "--detach", "--wait", "--wait-timeout", "300", *words, *services)

    def address(self, service: str, port: int) -> str:
        return f"http://{self.compose('port', service, str(port)).strip()}"

    def python(self, service: str, code: str, replica: int = 1) -> Any:
        """What `code` prints inside the container, read as JSON."""
        return json.loads(
            self.compose("exec", "--no-TTY", "--index", str(replica), service, "python", "-c", f"import json\n{code}")
        )

    def containers(self, *services: str) -> list[str]:
        return self.compose("ps", "--all", "--quiet", *services).split()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Prometheus's answer to an instant query."""
        with httpx.Client(base_url=self.address("prometheus", 9090), trust_env=False) as http:
            answer = http.get("/api/v1/query", params={"query": expression}).raise_for_status().json()
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def openai(self) -> OpenAI:
        return OpenAI(base_url=f"{self.address('client', 8000)}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    stack = Stack(f"splitlearn-test-{uuid.uuid4().hex[:8]}")
    try:
        stack.compose("build")
        stack.up()
        yield stack
    finally:
        try:
            print(stack.compose("logs", "--no-color", "--tail", "40"))
        finally:
            stack.compose("--profile", "*", "down", "--volumes", "--rmi", "local", "--remove-orphans")


@pytest.fixture(scope="module")
def two_trunks(stack: Stack) -> Stack:
    """A second trunk comes while the client runs, which finds it when it resolves the name again."""
    stack.up("--scale", "trunk=2")

    def sessions_of_the_newcomer() -> float:
        ask(stack, max_tokens=1)
        return sessions(stack, 2)

    eventually(sessions_of_the_newcomer, bool)
    return stack


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


def sessions(stack: Stack, replica: int) -> float:
    """Sessions that one trunk has opened, from its own /metrics."""
    code = (
        "from urllib.request import urlopen\n"
        "lines = urlopen('http://127.0.0.1:9101/metrics').read().decode().splitlines()\n"
        "print([float(l.split()[1]) for l in lines if l.startswith('splitlearn_trunk_sessions_total ')][0])"
    )
    return float(stack.python("trunk", code, replica))


def test_the_streamed_answer_comes_from_the_model_that_is_listed(stack: Stack) -> None:
    with stack.openai() as client:
        (model,) = client.models.list().data
        chunks = list(
            client.chat.completions.create(
                model=model.id, messages=[{"role": "user", "content": QUESTION}], temperature=0, stream=True
            )
        )
    assert {chunk.model for chunk in chunks} == {model.id}
    assert len(chunks) > 2
    assert chunks[-1].choices[0].finish_reason == "stop"
    answer = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert answer.startswith((inspect.getdoc(shutil.copyfile) or "").splitlines()[0])


def test_prometheus_finds_both_services_up(stack: Stack) -> None:
    eventually(
        lambda: {(each["metric"]["job"], each["value"][1]) for each in stack.query("up")},
        lambda seen: seen == {("trunk", "1"), ("client", "1")},
    )


def test_prometheus_evaluates_the_chart_s_alerts(stack: Stack) -> None:
    def health() -> set[str]:
        with httpx.Client(base_url=stack.address("prometheus", 9090), trust_env=False) as http:
            groups = http.get("/api/v1/rules").raise_for_status().json()["data"]["groups"]
        return {rule["health"] for group in groups for rule in group["rules"]}

    eventually(health, lambda seen: seen == {"ok"})


@pytest.mark.parametrize(
    "metric",
    [
        "splitlearn_trunk_sessions_total",
        "splitlearn_trunk_frame_compute_time_seconds_count",
        "splitlearn_client_generation_tokens_total",
        "splitlearn_client_time_to_first_token_seconds_count",
        'splitlearn_client_wire_bytes_total{direction="sent"}',
    ],
)
def test_prometheus_counts_what_a_request_did_on_both_sides(stack: Stack, metric: str) -> None:
    ask(stack, max_tokens=2)
    eventually(lambda: stack.query(f"sum({metric}) > 0"), lambda found: len(found) == 1)


@pytest.mark.parametrize(("service", "port"), [("trunk", 9101), ("client", 8000)])
def test_promtool_has_no_complaint_about_a_metric(stack: Stack, service: str, port: int) -> None:
    ask(stack, max_tokens=2)
    code = f"from urllib.request import urlopen; found = urlopen('http://127.0.0.1:{port}/metrics').read().decode()\n"
    metrics = stack.python(service, f"{code}print(json.dumps(found))")
    # promtool ends with another code than 0 if it has something to say
    assert not stack.compose("exec", "--no-TTY", "prometheus", "promtool", "check", "metrics", stdin=metrics)


def test_the_trunk_holds_the_files_of_its_own_layers_and_cannot_write(stack: Stack) -> None:
    first, last = map(int, stack.config()["trunk"]["environment"]["SPLITLEARN_TRUNK_LAYERS"].split("-"))
    expected = {MANIFEST_FILE, *(file_name(section_name(layer)) for layer in range(first, last))}
    assert set(stack.python("trunk", "import os; print(json.dumps(os.listdir('/weights')))")) == expected
    code = "try:\n  open('/weights/x', 'w')\nexcept OSError as error:\n  print(error.errno)\nelse:\n  print(0)"
    assert stack.python("trunk", code) == errno.EROFS


def test_the_trunk_image_holds_no_tokenizer_files_no_web_framework_and_no_training_code(stack: Stack) -> None:
    code = f"import importlib.util as i; print(json.dumps([n for n in {NEVER_IN_A_TRUNK} if i.find_spec(n)]))"
    assert stack.python("trunk", code) == []
    # generation_config.json goes with a tokenizer, and says nothing of text; packages have files called *.model
    names = " -o ".join(
        f"-name '{PurePosixPath(pattern).name}'"
        for pattern in TOKENIZER_FILES
        if "/" not in pattern and pattern != "generation_config.json"
    )
    search = f"find / -xdev \\( {names} \\) 2>/dev/null || true"
    assert stack.compose("exec", "--no-TTY", "trunk", "sh", "-c", search) == ""


def test_the_trunk_image_can_import_every_architecture_that_the_table_lists(stack: Stack) -> None:
    types = json.loads((ROOT / "tests/architectures/result.json").read_text(encoding="utf-8"))["types"]
    listed = [name for name, found in types.items() if found["verdict"] == "equal"]
    code = (
        "from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING\n"
        "failed = {}\n"
        f"for name in {listed}:\n"
        "  try: MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[name]]\n"
        "  except Exception as error: failed[name] = repr(error)\n"
        "print(json.dumps(failed))"
    )
    assert len(listed) > 100
    assert stack.python("trunk", code) == {}


def test_the_client_image_holds_no_training_code(stack: Stack) -> None:
    assert (
        stack.python("client", "import importlib.util as i; print(json.dumps(i.find_spec('cleangpt.trainers')))")
        is None
    )


@pytest.mark.parametrize("service", ["trunk", "client"])
def test_an_image_has_the_command_whose_verbs_it_holds_and_not_the_other(stack: Stack, service: str) -> None:
    code = "import shutil; print(json.dumps([shutil.which(n) is not None for n in ('splitlearn', 'cleangpt')]))"
    assert stack.python(service, code) == [True, False]


@pytest.mark.parametrize("service", ["trunk", "client"])
def test_the_kernels_of_an_image_are_compiled(stack: Stack, service: str) -> None:
    code = (
        "from importlib.machinery import EXTENSION_SUFFIXES; from pathlib import Path\n"
        "import splitlearn.backends.cpu.kernels\n"
        "library = Path(splitlearn.backends.cpu.kernels.__file__).with_name('_kernels')\n"
        "found = [Path(f'{library}{suffix}').exists() for suffix in EXTENSION_SUFFIXES]\n"
        "print(json.dumps(any(found)))"
    )
    assert stack.python(service, code) is True


@pytest.mark.parametrize("service", ["trunk", "client"])
def test_an_image_can_export_traces_and_does_not_unless_told(stack: Stack, service: str) -> None:
    code = "from splitlearn_comm.tracing import tracer_to as to; print(json.dumps([type(to(e, 'x')).__name__ for e in "
    assert stack.python(service, f"{code}(None, 'http://127.0.0.1:1/v1/traces')]))") == ["NoTracer", "OtelTracer"]


@pytest.mark.parametrize("service", ["trunk", "client"])
def test_no_service_of_ours_runs_as_root(stack: Stack, service: str) -> None:
    assert stack.python(service, "import os; print(os.getuid())") != 0


def answered(stack: Stack, seen: Callable[[int], None] = lambda _n_chunks: None) -> str:
    """The streamed answer to the question; `seen` is called with the number of chunks so far."""
    with stack.openai() as client:
        model = client.models.list().data[0].id
        messages: Any = [{"role": "user", "content": QUESTION}]
        words = []
        for chunk in client.chat.completions.create(model=model, messages=messages, temperature=0, stream=True):
            words.append(chunk.choices[0].delta.content or "")
            seen(len(words))
    return "".join(words)


def failovers(stack: Stack) -> float:
    """How often sessions have gone on with another trunk, from the client's own /metrics."""
    text = httpx.get(f"{stack.address('client', 8000)}/metrics", trust_env=False).text
    return sum(
        float(line.split()[-1]) for line in text.splitlines() if line.startswith("splitlearn_client_failovers_t")
    )


def test_a_trunk_that_is_killed_in_the_middle_of_answers_loses_nothing(two_trunks: Stack) -> None:
    def kill(n_chunks: int) -> None:
        if n_chunks == 1:
            container = f"{two_trunks.project}-trunk-1"
            subprocess.run(["docker", "kill", "--signal", "KILL", container], check=True, capture_output=True)

    expected = answered(two_trunks)
    for _ in range(10):
        with ThreadPoolExecutor(8) as pool:
            others = [pool.submit(answered, two_trunks) for _ in range(7)]
            said = {answered(two_trunks, kill), *(other.result() for other in others)}
        assert said == {expected}
        two_trunks.up("--scale", "trunk=2")
        if failovers(two_trunks):
            return
    pytest.fail("no answer was in the middle when its trunk was killed")


def test_sessions_spread_over_two_trunks(two_trunks: Stack) -> None:
    before = [sessions(two_trunks, replica) for replica in (1, 2)]
    # Calls that watch the trunk take their turns too, so that two sessions in a row may meet the same one.
    for _ in range(8):
        ask(two_trunks, max_tokens=1)
    opened = [sessions(two_trunks, replica) - old for replica, old in zip((1, 2), before, strict=True)]
    assert sum(opened) == 8
    assert min(opened) >= 1


def test_prometheus_finds_both_of_two_trunks(two_trunks: Stack) -> None:
    eventually(lambda: two_trunks.query('up{job="trunk"} == 1'), lambda found: len(found) == 2)


def test_sigterm_ends_trunk_and_client_with_exit_code_0(stack: Stack) -> None:
    stack.compose("stop", "trunk", "client")
    try:
        codes = subprocess.run(
            ["docker", "inspect", "--format", "{{.State.ExitCode}}", *stack.containers("trunk", "client")],
            capture_output=True,
            text=True,
            check=True,
        )
        assert set(codes.stdout.split()) == {"0"}
    finally:
        stack.compose("start", "trunk", "client")
        stack.up("--no-deps", services=("client",))


def test_a_chain_of_two_stages_gives_the_answer_of_one_trunk(stack: Stack) -> None:
    variables = (("TRUNK_LAYERS", "1-3"), ("NEXT_LAYERS", "3-5"), ("TRUNK_NEXT", "next:50051"))
    chain = Stack(stack.project, stack.ports, (*variables, ("COMPOSE_PROFILES", "chain")))
    expected = answered(stack)
    try:
        chain.up("--scale", "trunk=1", services=(*SERVICES, "next"))
        eventually(lambda: chain.query('splitlearn_trunk_next_replicas{state="ready"} == 1'), bool)
        assert answered(chain) == expected
        assert chain.query('up{job="trunk"} == 1')
    finally:
        chain.compose("rm", "--stop", "--force", "next")
        stack.up("--scale", "trunk=1")


@pytest.mark.parametrize(
    ("profiles", "expected"),
    [
        ("", {("client", "127.0.0.1", "8000", 8000)}),
        (
            "observability",
            {
                ("client", "127.0.0.1", "8000", 8000),
                ("prometheus", "127.0.0.1", "9090", 9090),
                ("grafana", "127.0.0.1", "3000", 3000),
            },
        ),
    ],
)
def test_only_what_people_look_at_is_published_and_only_on_loopback(
    profiles: str, expected: set[tuple[str, str, str, int]]
) -> None:
    services = Stack("splitlearn", "", (("COMPOSE_PROFILES", profiles),)).config("docker-compose.yml")
    published = {
        (name, port["host_ip"], port["published"], port["target"])
        for name, service in services.items()
        for port in service.get("ports", ())
    }
    assert published == expected


def test_the_cuda_override_reserves_a_gpu_for_the_trunk_alone() -> None:
    services = Stack("splitlearn").config("docker-compose.yml", "deploy/compose.cuda.yml")
    (device,) = services["trunk"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert services["trunk"]["environment"]["SPLITLEARN_TRUNK_DEVICE"] == "cuda"
    assert [name for name, service in services.items() if "deploy" in service] == ["trunk"]
