"""The two sides of a benchmark, each in processes of its own: Hugging Face transformers, and client + trunk."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
SHAPES = {shape.name: shape for shape in (QWEN, LLAMA)}
LAYERS = QWEN.layers
HIDDEN = int(QWEN.config["hidden_size"])


@dataclass(frozen=True)
class Ports:
    """Where one pair of trunk and client listens."""

    first: int

    @property
    def trunk(self) -> str:
        return f"127.0.0.1:{self.first}"

    @property
    def trunk_metrics(self) -> str:
        return f"http://127.0.0.1:{self.first + 1}/metrics"

    @property
    def client(self) -> str:
        return f"http://127.0.0.1:{self.first + 2}"


PORTS = Ports(50961)
OTHER_PORTS = Ports(50964)
TRUNK, TRUNK_METRICS, CLIENT = PORTS.trunk, PORTS.trunk_metrics, PORTS.client


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


class Split:
    """The client service, asked over HTTP. Seconds are wall clock around a request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=300)
        self.model = self._http.get("/v1/models").json()["data"][0]["id"]
        self.last: dict[str, Any] = {}
        """What the service measured of the last request."""
        self.last_reused = 0
        """Tokens of the last prompt that need not be computed."""

    def generate(self, ids: Sequence[int], n: int) -> float:
        """Seconds for `n` tokens after the prompt `ids`."""
        began = time.perf_counter()
        reply = self._http.post("/v1/completions", json=self.body(ids, n))
        seconds = time.perf_counter() - began
        reply.raise_for_status()
        answer = reply.json()
        self.last = answer["splitlearn"]
        self.last_reused = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        check_count(answer["usage"]["completion_tokens"], n)
        return seconds

    def body(self, ids: Sequence[int], n: int) -> dict[str, Any]:
        return {"model": self.model, "prompt": ids, "max_tokens": n, "temperature": 0}


def check_count(made: int, wanted: int) -> None:
    """Refuses to compare sides that did not do the same."""
    if made != wanted:
        raise SystemExit(f"{wanted} tokens were asked for, {made} came")


@contextmanager
def running(*command: str, env: dict[str, str] | None = None, **options: object) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, *command], text=True, env={**os.environ, **(env or {})}, cwd=ROOT, **options
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(url: str, *processes: "subprocess.Popen[str]", within: float = 120) -> None:
    """Returns once the client at this address can answer; ends the program if it cannot `within` so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        # a busy port ends them, and whoever has it would answer
        if any(process.poll() is not None for process in processes):
            raise SystemExit(f"client or trunk ended before {url} was ready; is another benchmark running?")
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"client and trunk did not become ready within {within:g} s")


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
    ports: Ports = PORTS,
    trunk_flags: Sequence[str] = (),
) -> Iterator[Split]:
    """Our side, ready: `splitlearn trunk` and `splitlearn client` as a user starts them, both with `flags`."""
    common = ("--threads", str(threads), *flags)
    listening = [address.rsplit(":", 1)[1].split("/")[0] for address in (ports.trunk, ports.trunk_metrics)]
    trunk = ("trunk", str(weights), "--layers", layers, "--port", listening[0], "--metrics-port", listening[1])
    client = ("client", str(weights), "--trunk", ports.trunk, "--port", ports.client.rsplit(":", 1)[1])
    with (
        running("-m", "splitlearn_cli", *trunk, *common, *trunk_flags, stderr=subprocess.DEVNULL) as below,
        running("-m", "splitlearn_cli", *client, *common, stderr=subprocess.DEVNULL) as above,
    ):
        wait_until_ready(ports.client, below, above)
        yield Split(ports.client)
