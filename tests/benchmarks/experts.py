"""Decode steps of models with a mixture of experts: ours against the same model's own forward, with each way that
transformers has to run experts.

    python -m tests.benchmarks.experts [--quick] [--threads N] [--shape NAME]

Random weights in bf16, the whole model in one process, steps in turns. Each session has 64 tokens of its own, and every
step adds one to all of them.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from splitlearn.backends.cpu.backend import ContiguousBackend
from splitlearn.backends.cpu.kernels import kernels
from splitlearn.backends.cpu.packing import pack
from splitlearn.checkpoints.load import load_part
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.interface import SequenceInput
from tests.benchmarks.contenders import ModelShape, make_weights
from tests.benchmarks.figures import Figure, add_json_option, write_report

THREADS = 2
HISTORY = 64
SESSIONS = (1, 16)
ROUNDS = 15
WAYS = ("eager", "batched_mm", "grouped_mm")
OURS = {"ours": "none", "ours, int8": "int8"}
_COMMON = {
    "vocab_size": 8192,
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
MIXTRAL = ModelShape(
    name="mixtral-like",
    label="Mixtral-like: 8 layers, 8 experts of 3584, 2 of them chosen",
    layers="f",
    model_type="mixtral",
    config={**_COMMON, "intermediate_size": 3584, "num_local_experts": 8, "num_experts_per_tok": 2},
)
QWEN_MOE = ModelShape(
    name="qwen3-moe-like",
    label="Qwen3-MoE-like: 8 layers, 128 experts of 384, 8 of them chosen",
    layers="f",
    model_type="qwen3_moe",
    config={
        **_COMMON,
        "intermediate_size": 3072,
        "moe_intermediate_size": 384,
        "num_experts": 128,
        "num_experts_per_tok": 8,
    },
)
SHAPES = {shape.name: shape for shape in (MIXTRAL, QWEN_MOE)}

Step = Callable[[], torch.Tensor]


def prompts(n_sessions: int) -> torch.Tensor:
    """Ids [B, T + 1], of which the last are those of the step."""
    return torch.randint(3, 8192, (n_sessions, HISTORY + 1), generator=torch.Generator().manual_seed(n_sessions))


def our_step(runner: BatchedRunner, n_sessions: int) -> Step:
    ids_BT = prompts(n_sessions)
    kvs = [runner.new_kv(HISTORY + 1) for _ in range(n_sessions)]
    for kv, ids_T in zip(kvs, ids_BT, strict=True):
        runner.run([SequenceInput(kv, 0, ids_T[:HISTORY])])
    inputs = [SequenceInput(kv, HISTORY, ids_T[HISTORY:]) for kv, ids_T in zip(kvs, ids_BT, strict=True)]
    return lambda: torch.stack(runner.run(inputs))


def their_step(model: PreTrainedModel, way: str, n_sessions: int) -> Step:
    ids_BT = prompts(n_sessions)
    model.set_experts_implementation("eager")
    kept = DynamicCache(config=model.config)
    model(ids_BT[:, :HISTORY], past_key_values=kept, use_cache=True)

    def step() -> torch.Tensor:
        model.set_experts_implementation(way)
        logits_BV = model(ids_BT[:, HISTORY:], past_key_values=kept, use_cache=True).logits[:, -1]
        kept.crop(-1)
        return logits_BV

    return step


def in_turns(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each step: of one thread those that it ran, as other processes may take its core."""
    now = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            began = now()
            step()
            if round_:
                times[name].append(1000 * (now() - began))
    return times


def check(steps: Mapping[str, Step]) -> None:
    """Says how far our logits are from the reference, so that a wrong step cannot pass for a fast one."""
    expected = steps[WAYS[0]]().float()
    for name in (*OURS, *WAYS[1:]):
        off = (steps[name]().float() - expected).std() / expected.std()
        print(f"{name}: logits differ from {WAYS[0]} by {float(off):.4f} of their spread", flush=True)


@torch.inference_mode()
def measure(shape: ModelShape, sessions: Sequence[int], rounds: int) -> list[Figure]:
    checkpoint, weights = make_weights(shape)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()
    runners = {}
    for name, quantization in OURS.items():
        part = load_part(weights, shape.layers)
        pack(part, quantization)
        runners[name] = BatchedRunner(part, None, ContiguousBackend)
    print(f"\n{shape.label}: {runners['ours'].fusion}\n", flush=True)
    figures = []
    for n_sessions in sessions:
        steps = {name: our_step(runner, n_sessions) for name, runner in runners.items()}
        steps |= {way: their_step(model, way, n_sessions) for way in WAYS}
        check(steps)
        times = in_turns(steps, rounds)
        print(row(shape, n_sessions, {name: median(each) for name, each in times.items()}), flush=True)
        best = min((times[way] for way in WAYS), key=median)
        named = ((f"{shape.name}, {n_sessions} sessions, {name}", times[name]) for name in OURS)
        figures += [Figure(name, "ms", each, more_is_better=False, against=best) for name, each in named]
    return figures


def row(shape: ModelShape, n_sessions: int, ms: Mapping[str, float]) -> str:
    best = min(ms[way] for way in WAYS)
    ours = (f"{ms[name]:.1f} | {best / ms[name]:.1f}x" for name in OURS)
    return f"| {shape.name} | {n_sessions} | {' | '.join((*(f'{ms[way]:.1f}' for way in WAYS), *ours))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see whether it runs")
    parser.add_argument("--shape", choices=SHAPES, help="this one alone")
    add_json_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shapes = [SHAPES[options.shape]] if options.shape else list(SHAPES.values())
    library = kernels()
    print(
        f"{options.threads} threads on {os.cpu_count()} cores, medians of {options.rounds}, ms a step, kernels "
        f"{'none' if library is None else library.instruction_set}"
    )
    print(f"| shape | sessions | {' | '.join((*WAYS, *(f'{name} | gain' for name in OURS)))} |")
    figures = [each for shape in shapes for each in measure(shape, SESSIONS, 3 if options.quick else options.rounds)]
    write_report(options.json, figures)


if __name__ == "__main__":
    main()
