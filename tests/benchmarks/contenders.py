"""The two sides of a benchmark, each in processes of its own: Hugging Face `generate`, and client + trunk."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "bench"
RESULTS = Path(__file__).parent / "results"
LAYERS = "2-22"
HIDDEN = 896
TRUNK = "127.0.0.1:50961"
TRUNK_METRICS = "http://127.0.0.1:50962/metrics"
CLIENT = "http://127.0.0.1:50963"


def make_weights() -> tuple[Path, Path]:
    """The checkpoint and its sepweight directory, made once and kept in build/bench."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from splitlearn.convert import prepare
    from support.tiny_models import tiny_tokenizer

    checkpoint, weights = WORK / "qwen2-0.5b-shape", WORK / "weights"
    if not (weights / "manifest.json").exists():
        print("making random weights of the Qwen2-0.5B shape (once, 1 GB)", flush=True)
        config = Qwen2Config(
            vocab_size=151936,
            hidden_size=HIDDEN,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            max_position_embeddings=32768,
            rope_theta=1000000.0,
            tie_word_embeddings=True,
            eos_token_id=None,
            bos_token_id=None,
        )
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(checkpoint)
        tiny_tokenizer().save_pretrained(checkpoint)
        prepare(str(checkpoint)).write(weights, overwrite=True)
    return checkpoint, weights


class Whole:
    """Hugging Face `generate` in a process of its own, asked over a pipe."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._in: IO[str] = process.stdin  # type: ignore[assignment]
        self._out: IO[str] = process.stdout  # type: ignore[assignment]

    def wait_until_ready(self) -> None:
        self._out.readline()

    def generate(self, ids: list[int], n: int) -> float:
        """Seconds for `n` tokens after the prompt `ids`."""
        began = time.perf_counter()
        self._in.write(json.dumps({"ids": ids, "n": n}) + "\n")
        self._in.flush()
        self._out.readline()
        return time.perf_counter() - began


class Split:
    """The client service, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=300)
        self.model = self._http.get("/v1/models").json()["data"][0]["id"]
        self.last: dict[str, object] = {}

    def generate(self, ids: list[int], n: int) -> float:
        """Seconds for `n` tokens after the prompt `ids`."""
        body = {"model": self.model, "prompt": ids, "max_tokens": n, "temperature": 0}
        began = time.perf_counter()
        reply = self._http.post("/v1/completions", json=body)
        seconds = time.perf_counter() - began
        reply.raise_for_status()
        self.last = reply.json()["splitlearn"]
        return seconds


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


def serve_whole(checkpoint: str, threads: int) -> None:
    """The child process behind `Whole`."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()
    model.generation_config.pad_token_id = 0
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        ids = torch.tensor([asked["ids"]])
        with torch.inference_mode():
            made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=asked["n"], do_sample=False)
        print(json.dumps(made[0, ids.shape[1] :].tolist()), flush=True)


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("client and trunk did not become ready within two minutes")


@contextmanager
def whole_model(checkpoint: Path, threads: int) -> Iterator[Whole]:
    """Hugging Face's side, loaded and ready."""
    command = ("-m", "tests.benchmarks.contenders", str(checkpoint), str(threads))
    with running(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        whole = Whole(process)
        whole.wait_until_ready()
        yield whole


@contextmanager
def split_model(weights: Path, threads: int) -> Iterator[Split]:
    """Our side, ready: `splitlearn trunk` and `splitlearn client` as a user starts them."""
    common = ("--threads", str(threads))
    trunk = ("trunk", str(weights), "--layers", LAYERS, "--port", TRUNK.split(":")[1], "--metrics-port", "50962")
    client = ("client", str(weights), "--trunk", TRUNK, "--port", CLIENT.rsplit(":", 1)[1])
    with (
        running("-m", "splitlearn_cli", *trunk, *common, stderr=subprocess.DEVNULL),
        running("-m", "splitlearn_cli", *client, *common, stderr=subprocess.DEVNULL),
    ):
        wait_until_ready(CLIENT)
        yield Split(CLIENT)


if __name__ == "__main__":
    serve_whole(sys.argv[1], int(sys.argv[2]))
