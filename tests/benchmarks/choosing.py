"""What choosing a token takes, against transformers' processors on all tokens and torch's own draw, in turns.

`--busy` keeps every core busy meanwhile, as a trunk on the same machine or other users do.

Shapes: V vocabulary.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any, Final

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from splitlearn_client.sampling import Sampler, SamplingSettings

_VOCABULARY: Final = 151_936
_PROMPT: Final = 512
_SETTINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "temperature 1": {},
    "temperature 0.7, top_p 0.9": {"temperature": 0.7, "top_p": 0.9},
    "temperature 0.7, top_k 20, top_p 0.8, repetition_penalty 1.1": {
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "repetition_penalty": 1.1,
    },
    "min_p 0.1": {"min_p": 0.1},
}
_WARPERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "repetition_penalty": RepetitionPenaltyLogitsProcessor,
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
}


def by_transformers(settings: Mapping[str, Any]) -> Callable[[torch.Tensor, list[int]], int]:
    processors = LogitsProcessorList([make(settings[name]) for name, make in _WARPERS.items() if name in settings])

    def chosen(logits_V: torch.Tensor, ids: list[int]) -> int:
        left_1V = processors(torch.tensor([ids]), logits_V.float()[None])
        return int(torch.multinomial(left_1V.softmax(dim=-1), 1))

    return chosen


def ours(settings: Mapping[str, Any]) -> Callable[[torch.Tensor, list[int]], int]:
    sampler = Sampler(SamplingSettings(**settings))
    return lambda logits_V, ids: sampler.choose(logits_V, ids).token


def milliseconds(settings: Mapping[str, Any], n: int) -> list[float]:
    """Of transformers' side and of ours, medians of `n` choices."""
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(_VOCABULARY, (_PROMPT,), generator=chance).tolist()
    sides, found = (by_transformers(settings), ours(settings)), ([], [])
    for _ in range(n):
        logits_V = (4 * torch.randn(_VOCABULARY, generator=chance)).bfloat16()
        for side, times in zip(sides, found, strict=True):
            began = time.perf_counter()
            side(logits_V, ids)
            times.append(1000 * (time.perf_counter() - began))
    return [median(times) for times in found]


def _compute() -> None:
    while True:
        sum(range(10**6))


@contextmanager
def busy_cores() -> Iterator[None]:
    processes = [multiprocessing.Process(target=_compute, daemon=True) for _ in range(os.cpu_count() or 1)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.choosing", description=__doc__)
    parser.add_argument("--choices", type=int, default=100)
    parser.add_argument("--busy", action="store_true")
    given = parser.parse_args()
    print(f"milliseconds for a token of {_VOCABULARY}, {torch.get_num_threads()} threads; beside others: {given.busy}")
    print("| settings | transformers | ours | times as fast |\n|---|---:|---:|---:|")
    for name, settings in _SETTINGS.items():
        if given.busy:
            with busy_cores():
                theirs, own = milliseconds(settings, given.choices)
        else:
            theirs, own = milliseconds(settings, given.choices)
        print(f"| {name} | {theirs:.1f} | {own:.2f} | {theirs / own:.0f} |", flush=True)


if __name__ == "__main__":
    main()
