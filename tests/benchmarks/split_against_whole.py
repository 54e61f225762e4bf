"""`make bench`: client + trunk over loopback against Hugging Face `generate` of the whole model.

Both sides run the same random weights (the shape of Qwen2-0.5B, bf16, greedy, batch 1) on the same cores and are
asked in turns, from the same process. Decode is (time of N+1 tokens - time of 1 token) / N, prefill the time
to one token after 512; both are wall clock around the whole call, HTTP included on our side.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "bench"
RESULTS = Path(__file__).parent / "results"
LAYERS = "2-22"
GOALS = {"decode": 0.90, "prefill": 0.85}


@dataclass(frozen=True)
class Shape:
    prompt: int = 64
    decode: int = 64
    prefill: int = 512
    rounds: int = 5
    threads: int = os.cpu_count() or 2


@dataclass
class Samples:
    """Seconds per token (decode) and per prompt (prefill), one entry a round."""

    decode: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)


def make_weights() -> tuple[Path, Path]:
    """The checkpoint and its sepweight directory, made once and kept in build/bench."""
    import torch
    from splitlearn.convert import prepare
    from support.tiny_models import tiny_tokenizer
    from transformers import AutoModelForCausalLM, Qwen2Config

    checkpoint, weights = WORK / "qwen2-0.5b-shape", WORK / "weights"
    if not (weights / "manifest.json").exists():
        print("making random weights of the Qwen2-0.5B shape (once, 1 GB)", flush=True)
        config = Qwen2Config(
            vocab_size=151936,
            hidden_size=896,
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

    def generate(self, ids: list[int], n: int) -> tuple[float, list[int]]:
        began = time.perf_counter()
        self._in.write(json.dumps({"ids": ids, "n": n}) + "\n")
        self._in.flush()
        tokens = json.loads(self._out.readline())
        return time.perf_counter() - began, tokens


class Split:
    """The client service, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=300)
        self.model = self._http.get("/v1/models").json()["data"][0]["id"]
        self.last: dict[str, object] = {}

    def generate(self, ids: list[int], n: int) -> tuple[float, list[int]]:
        body = {"model": self.model, "prompt": ids, "max_tokens": n, "temperature": 0}
        began = time.perf_counter()
        reply = self._http.post("/v1/completions", json=body)
        seconds = time.perf_counter() - began
        reply.raise_for_status()
        self.last = reply.json()["splitlearn"]
        return seconds, []


def measure(engine: Whole | Split, shape: Shape, samples: Samples) -> None:
    """One round: a short decode and one prefill."""
    prompt = [(7 * i) % 30000 + 3 for i in range(shape.prefill)]
    one, _ = engine.generate(prompt[: shape.prompt], 1)
    many, _ = engine.generate(prompt[: shape.prompt], shape.decode + 1)
    samples.decode.append((many - one) / shape.decode)
    samples.prefill.append(engine.generate(prompt, 1)[0])


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
    for _ in range(600):
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("client and trunk did not become ready within a minute")


def run(shape: Shape) -> tuple[Samples, Samples, dict[str, object]]:
    checkpoint, weights = make_weights()
    cli = ("-m", "splitlearn_cli")
    threads = str(shape.threads)
    here = str(Path(__file__))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    trunk = ("trunk", str(weights), "--layers", LAYERS, "--port", "50961", "--metrics-port", "0")
    client = ("client", str(weights), "--trunk", "127.0.0.1:50961", "--port", "50963")
    whole, split = Samples(), Samples()
    with (
        running(here, "--serve-whole", str(checkpoint), "--threads", threads, **pipes) as hf,
        running(*cli, *trunk, "--threads", threads, stderr=subprocess.DEVNULL),
        running(*cli, *client, "--threads", threads, stderr=subprocess.DEVNULL),
    ):
        wait_until_ready("http://127.0.0.1:50963")
        hf.stdout.readline()
        ours, theirs = Split("http://127.0.0.1:50963"), Whole(hf)
        measure(theirs, shape, Samples())
        measure(ours, shape, Samples())
        for number in range(shape.rounds):
            measure(theirs, shape, whole)
            measure(ours, shape, split)
            print(f"round {number + 1} of {shape.rounds}", flush=True)
        ours.generate([5] * shape.prompt, shape.decode + 1)
    return whole, split, ours.last


def report(shape: Shape, whole: Samples, split: Samples, last: dict[str, object]) -> str:
    decode = statistics.median(a / b for a, b in zip(whole.decode, split.decode, strict=True))
    prefill = statistics.median(a / b for a, b in zip(whole.prefill, split.prefill, strict=True))
    rows = [
        ("decode, tokens/s", 1 / statistics.median(whole.decode), 1 / statistics.median(split.decode), decode),
        (
            f"prefill of {shape.prefill}, tokens/s",
            shape.prefill / statistics.median(whole.prefill),
            shape.prefill / statistics.median(split.prefill),
            prefill,
        ),
    ]
    lines = [
        f"# Split against whole, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"`make bench`: Qwen2-0.5B shape, random weights, bf16, greedy, batch 1, trunk layers {LAYERS} of 24, "
        f"{shape.threads} threads in every process on {os.cpu_count()} cores, {shape.rounds} rounds in turns; "
        "medians, the ratio is the median of the rounds' ratios.",
        "",
        "| | HF generate | client + trunk | ratio | goal |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {a:.1f} | {b:.1f} | {ratio:.2f} | {GOALS[name.split(',')[0].split()[0]]:.2f} |"
            for name, a, b, ratio in rows
        ),
        "",
        "Rounds' ratios: decode "
        + ", ".join(f"{a / b:.2f}" for a, b in zip(whole.decode, split.decode, strict=True))
        + "; prefill "
        + ", ".join(f"{a / b:.2f}" for a, b in zip(whole.prefill, split.prefill, strict=True))
        + ".",
        "",
        f"Where a request's time goes ({shape.prompt} prompt tokens, {shape.decode + 1} generated), ms per token:",
        "",
        "| station | ms per token |",
        "|---|---|",
    ]
    seconds = last["seconds"]
    if isinstance(seconds, dict):
        lines += [f"| {name} | {1000 * value / (shape.decode + 1):.2f} |" for name, value in seconds.items()]
    lines += [
        "",
        f"Wire: {last['wire_bytes_sent']} bytes sent, {last['wire_bytes_received']} received "
        f"for {shape.prompt + shape.decode} positions of {896 * 2} bytes.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=Shape.rounds)
    parser.add_argument("--threads", type=int, default=Shape.threads)
    parser.add_argument("--serve-whole", metavar="CHECKPOINT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_whole:
        serve_whole(options.serve_whole, options.threads)
        return
    shape = Shape(rounds=options.rounds, threads=options.threads)
    text = report(shape, *run(shape))
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"split_against_whole_{datetime.now(UTC):%Y-%m-%d}.md").write_text(text)


if __name__ == "__main__":
    main()
