"""`make bench`, first part: client + trunk over loopback against Hugging Face `generate` of the whole model.

Both sides run the same random weights (the shape of Qwen2-0.5B, bf16, greedy, batch 1) on the same cores and are
asked in turns, from the same process. Decode is (time of N+1 tokens - time of 1 token) / N, prefill the time
to one token after 512; both are wall clock around the whole call, HTTP included on our side.
"""

import argparse
import os
import statistics
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.benchmarks.contenders import HIDDEN, LAYERS, RESULTS, Split, Whole, make_weights, split_model, whole_model

GOALS = {"decode": 1.8, "prefill": 1.3}


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


def measure(engine: Whole | Split, shape: Shape, samples: Samples) -> None:
    """One round: a short decode and one prefill."""
    prompt = [(7 * i) % 30000 + 3 for i in range(shape.prefill)]
    one = engine.generate(prompt[: shape.prompt], 1)
    many = engine.generate(prompt[: shape.prompt], shape.decode + 1)
    samples.decode.append((many - one) / shape.decode)
    samples.prefill.append(engine.generate(prompt, 1))


def run(shape: Shape) -> tuple[Samples, Samples, dict[str, object]]:
    checkpoint, weights = make_weights()
    whole, split = Samples(), Samples()
    with (
        whole_model(checkpoint, shape.threads) as theirs,
        split_model(weights, shape.threads, ["--no-enable-prefix-caching"]) as ours,
    ):
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
        f"for {shape.prompt + shape.decode} positions of {HIDDEN * 2} bytes.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=Shape.rounds)
    parser.add_argument("--threads", type=int, default=Shape.threads)
    options = parser.parse_args()
    shape = Shape(rounds=options.rounds, threads=options.threads)
    text = report(shape, *run(shape))
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"split_against_whole_{datetime.now(UTC):%Y-%m-%d}.md").write_text(text)


if __name__ == "__main__":
    main()
