"""The two sides of a benchmark, each in processes of its own: Hugging Face transformers, and client + trunk."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "bench"
# several checkouts may share them: they are large, and take minutes to make
CHECKPOINTS = Path(os.environ.get("SPLITLEARN_BENCH_CHECKPOINTS", WORK))
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, eq=False)
class ModelShape:
    """A model of random weights. `config` as transformers takes it, `layers` are the trunk's."""

    name: str
    label: str
    layers: str
    model_type: str
    config: Mapping[str, Any]

    @property
    def context(self) -> int:
        return int(self.config["max_position_embeddings"])

    @property
    def vocabulary(self) -> int:
        return int(self.config["vocab_size"])


QWEN = ModelShape(
    name="qwen2-0.5b",
    label="Qwen2-0.5B",
    layers="2-22",
    model_type="qwen2",
    config={
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
)
LLAMA = ModelShape(
    name="llama-1.1b",
    label="Llama-1.1B",
    layers="2-20",
    model_type="llama",
    config={
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    },
)
# the layers of a Llama-3-8B, eight of its 32
EIGHT_B = ModelShape(
    name="llama-8b",
    label="Llama-8B",
    layers="0-8",
    model_type="llama",
    config={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 8,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
)
SHAPES = {shape.name: shape for shape in (QWEN, LLAMA)}
LAYERS = QWEN.layers
HIDDEN = int(QWEN.config["hidden_size"])


def _free_port() -> int:
    # here, as it brings clients' packages along, which a machine with a GPU alone lacks
    from support.running_split import free_port

    return free_port()


@dataclass(frozen=True)
class Ports:
    """Where one pair of trunk and client listens, on ports that were free."""

    trunk_port: int = field(default_factory=_free_port)
    metrics_port: int = field(default_factory=_free_port)
    client_port: int = field(default_factory=_free_port)

    @property
    def trunk(self) -> str:
        return f"127.0.0.1:{self.trunk_port}"

    @property
    def trunk_metrics(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    @property
    def client(self) -> str:
        return f"http://127.0.0.1:{self.client_port}"


def make_weights(shape: ModelShape = QWEN) -> tuple[Path, Path]:
    """The checkpoint and its sepweight directory, made once and kept in build/bench."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from splitlearn.checkpoints.convert import prepare
    from support.tiny_models import tiny_tokenizer

    checkpoint, weights = CHECKPOINTS / f"{shape.name}-shape", WORK / f"{shape.name}-weights"
    # each is complete if what is written last is there
    if not (checkpoint / "tokenizer.json").exists():
        print(f"making random weights of the {shape.label} shape (once, 1 to 2 GB)", flush=True)
        config = CONFIG_MAPPING[shape.model_type](**shape.config, eos_token_id=None, bos_token_id=None)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(checkpoint)
        tiny_tokenizer().save_pretrained(checkpoint)
    if not (weights / "manifest.json").exists():
        prepare(str(checkpoint)).write(weights, overwrite=True)
    return checkpoint, weights


class Whole:
    """Hugging Face transformers in a process of its own, asked over a pipe. Seconds include the pipe."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._in: IO[str] = process.stdin  # type: ignore[assignment]
        self._out: IO[str] = process.stdout  # type: ignore[assignment]

    def wait_until_ready(self) -> None:
        self._out.readline()

    def generate(self, ids: Sequence[int], n: int) -> float:
        """Seconds for `n` tokens after the prompt `ids`."""
        return self.generate_batch([ids], n)

    def generate_batch(self, prompts: Sequence[Sequence[int]], n: int) -> float:
        """Seconds for `n` tokens after each of the prompts, which have one length."""
        began = time.perf_counter()
        answer = self._ask({"what": "generate", "prompts": prompts, "n": n})
        seconds = time.perf_counter() - began
        check_count(answer["tokens"], n * len(prompts))
        return seconds

    def forward(self, ids: Sequence[int]) -> float:
        """Seconds for one forward of `ids`: their cache and the next token's logits."""
        began = time.perf_counter()
        self._ask({"what": "forward", "prompt": ids})
        return time.perf_counter() - began

    def continuous(self, requests: Sequence[Mapping[str, Any]]) -> float:
        """Seconds from the start to the last token of requests (`at`, `prompt`, `n`) in transformers' own batching."""
        answer = self._ask({"what": "continuous", "requests": requests})
        check_count(answer["tokens"], sum(each["n"] for each in requests))
        return float(answer["seconds"])

    def _ask(self, question: Mapping[str, Any]) -> Any:
        self._in.write(json.dumps(question) + "\n")
        self._in.flush()
        return json.loads(self._out.readline())


class Endpoint:
    """A server with OpenAI's completions, asked for so many greedy tokens. Seconds are wall clock around a request.

    Args:
        more: fields of its own that each request needs.
    """

    def __init__(self, url: str, more: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=300)
        self._more = more or {}
        self.model = self._http.get("/v1/models").json()["data"][0]["id"]

    def generate(self, ids: Sequence[int], n: int) -> float:
        """Seconds for `n` tokens after the prompt `ids`."""
        began = time.perf_counter()
        reply = self._http.post("/v1/completions", json=self.body(ids, n))
        seconds = time.perf_counter() - began
        reply.raise_for_status()
        answer = reply.json()
        check_count(answer["usage"]["completion_tokens"], n)
        self._read(answer)
        return seconds

    def _read(self, answer: Mapping[str, Any]) -> None:
        """Keeps what else the answer says."""

    def body(self, ids: Sequence[int], n: int) -> dict[str, Any]:
        return {"model": self.model, "prompt": ids, "max_tokens": n, "temperature": 0, **self._more}


class Split(Endpoint):
    """The client service.

    Attributes:
        ports: where it and its trunk listen.
        last: what the service measured of the last request.
        last_reused: tokens of the last prompt that need not be computed.
    """

    def __init__(self, ports: Ports) -> None:
        super().__init__(ports.client)
        self.ports = ports
        self.last: dict[str, Any] = {}
        self.last_reused = 0

    def _read(self, answer: Mapping[str, Any]) -> None:
        self.last = answer["splitlearn"]
        self.last_reused = answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def check_count(made: int, wanted: int) -> None:
    """Refuses to compare sides that did not do the same."""
    if made != wanted:
        raise SystemExit(f"{wanted} tokens were asked for, {made} came")


@contextmanager
def running(
    *command: str, program: str = sys.executable, env: Mapping[str, str] | None = None, **options: object
) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(  # type: ignore[call-overload]
        [program, *command], text=True, env={**os.environ, **(env or {})}, cwd=ROOT, **options
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(url: str, *processes: "subprocess.Popen[str]", within: float = 120, path: str = "/ready") -> None:
    """Returns once the server at this address can answer; ends the program if it cannot `within` so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        # a busy port ends them, and whoever has it would answer
        if any(process.poll() is not None for process in processes):
            raise SystemExit(f"a process ended before {url} was ready; is another benchmark running?")
        try:
            if httpx.get(f"{url}{path}").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"{url} did not become ready within {within:g} s")


@contextmanager
def whole_model(checkpoint: Path, threads: int) -> Iterator[Whole]:
    """Hugging Face's side, loaded and ready."""
    command = ("-m", "tests.benchmarks.huggingface", str(checkpoint), str(threads))
    with running(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        whole = Whole(process)
        whole.wait_until_ready()
        yield whole


@contextmanager
def split_model(
    weights: Path,
    threads: int,
    flags: Sequence[str] = (),
    *,
    layers: str = LAYERS,
    trunk_flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[Split]:
    """Our side, ready: `splitlearn trunk` and `splitlearn client` as a user starts them, both with `flags`."""
    ports, common = Ports(), ("--threads", str(threads), *flags)
    listening = ("--port", str(ports.trunk_port), "--metrics-port", str(ports.metrics_port))
    trunk = ("trunk", str(weights), "--layers", layers, *listening)
    client = ("client", str(weights), "--trunk", ports.trunk, "--port", str(ports.client_port))
    with (
        running("-m", "splitlearn_cli", *trunk, *common, *trunk_flags, env=env, stderr=subprocess.DEVNULL) as below,
        running("-m", "splitlearn_cli", *client, *common, env=env, stderr=subprocess.DEVNULL) as above,
    ):
        wait_until_ready(ports.client, below, above)
        yield Split(ports)
