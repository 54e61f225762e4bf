"""The containers as a newcomer starts them: `docker compose up`, with the model that ships."""

import errno
import inspect
import json
import shutil
import subprocess
from pathlib import PurePosixPath

import httpx
import pytest

from llm_sepweight.layout import MANIFEST_FILE, file_name, section_name
from splitlearn.checkpoints.tokenizer_files import TOKENIZER_FILES
from support.compose_stack import QUESTION, ROOT, SERVICES, Stack, answered, ask, eventually

pytestmark = pytest.mark.docker

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
        'splitlearn_client_wire_bytes_total{direction="sent",codec="none"}',
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
        "import splitlearn.backends.cpu.kernels as kernels\n"
        "print(json.dumps(all(kernels._file(name) is not None for name in kernels.INSTRUCTION_SETS)))"
    )
    assert stack.python(service, code) is True


@pytest.mark.parametrize("service", ["trunk", "client"])
def test_an_image_can_export_traces_and_does_not_unless_told(stack: Stack, service: str) -> None:
    code = "from splitlearn_comm.tracing import tracer_to as to; print(json.dumps([type(to(e, 'x')).__name__ for e in "
    assert stack.python(service, f"{code}(None, 'http://127.0.0.1:1/v1/traces')]))") == ["NoTracer", "OtelTracer"]


@pytest.mark.parametrize("service", ["trunk", "client"])
def test_no_service_of_ours_runs_as_root(stack: Stack, service: str) -> None:
    assert stack.python(service, "import os; print(os.getuid())") != 0


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
    services = Stack("splitlearn", "", (("COMPOSE_PROFILES", profiles),)).config()
    published = {
        (name, port["host_ip"], port["published"], port["target"])
        for name, service in services.items()
        for port in service.get("ports", ())
    }
    assert published == expected
