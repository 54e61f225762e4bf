"""What following a schema costs a token: constrained and plain answers in turns, and the time of the masks alone.

The vocabulary has the model's real size: bytes, and as many more tokens, joined of shorter ones at random. Both kinds
of answers have the same number of tokens; the schema's have no end before. `--masks` runs the masks alone, without a
model. A mask is made beside the model's step, and added to the logits behind it: all of that is time of the token.
"""

import argparse
import json
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from splitlearn_client.sampling import mask
from splitlearn_client.structured.grammar_trial import PARSER_LIMITS
from splitlearn_client.structured.matcher import bias_of
from splitlearn_client.structured.schema import rewritten
from splitlearn_client.structured.vocabulary import read_vocabulary
from tests.benchmarks.contenders import LAYERS, QWEN, WORK, Split, make_weights, split_model
from tests.benchmarks.users import Prompts

# answers of any length: an array that has to be long
_PERSON: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 8, "maxLength": 200},
        "born": {"type": "string", "format": "date"},
        "height": {"type": "number", "minimum": 0.3, "maximum": 2.5},
        "pets": {"type": "array", "items": {"enum": ["cat", "dog", "snake", "hamster"]}},
        "notes": {"type": ["string", "null"]},
    },
    "required": ["name", "born", "height", "pets", "notes"],
    "additionalProperties": False,
}
CONSTRAINTS: Final[dict[str, dict[str, Any]]] = {
    "schema": {"json": {"type": "array", "items": _PERSON, "minItems": 1000}},
    "expression": {"regex": r"([A-Z][a-z]{2,12} [0-9]{1,4}, ){1000}"},
    "any JSON": {"json": {"type": "array", "minItems": 1000}},
}
_PIECES: Final = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", *'Ġ_-.,:;/(){}[]<>="']


def large_tokenizer(n_tokens: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with so many tokens."""
    chance = random.Random(0)
    words = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary, merges = {word: i for i, word in enumerate(words)}, []
    short = list(_PIECES)
    while len(vocabulary) < n_tokens:
        first, second = chance.choice(short), chance.choice(short)
        if first + second not in vocabulary:
            vocabulary[first + second] = len(vocabulary)
            merges.append((first, second))
            if len(first + second) < 6:
                short.append(first + second)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def weights_with(tokenizer: PreTrainedTokenizerFast) -> Path:
    """The benchmark's weights beside this tokenizer."""
    _, weights = make_weights(QWEN)
    folder = WORK / "structured-weights"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(weights, folder, copy_function=os.link)
    for file in folder.glob("*token*"):
        file.unlink()
    tokenizer.save_pretrained(folder)
    return folder


def milliseconds(split: Split, prompt: Sequence[int], n: int, constraint: dict[str, Any] | None) -> float:
    """Of a token after the first, as the service measured it."""
    fields = {} if constraint is None else {"structured_outputs": constraint}
    body = {**split.body(prompt, n), "temperature": 1.0, "ignore_eos": True, **fields}
    reply = split._http.post("/v1/completions", json=body)
    reply.raise_for_status()
    answer = reply.json()
    if answer["usage"]["completion_tokens"] != n:
        raise SystemExit(f"{n} tokens were asked for, {answer['usage']['completion_tokens']} came")
    return 1000 / float(answer["splitlearn"]["tokens_per_second"])


def print_tokens(split: Split, n: int, rounds: int) -> None:
    prompts = Prompts(0, 256)
    sides: dict[str, dict[str, Any] | None] = {"plain": None, **CONSTRAINTS}
    for side in sides.values():
        milliseconds(split, prompts.one(32), 4, side)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            found[name].append(milliseconds(split, prompts.one(32), n, sides[name]))
    for name, times in found.items():
        ratios = [time / plain for time, plain in zip(times, found["plain"], strict=True)]
        print(
            f"{name}: {median(times):.2f} ms a token (best {min(times):.2f}), {median(ratios):.3f} of plain in the "
            f"same round, {min(times) / min(found['plain']):.3f} of its best",
            flush=True,
        )


def print_masks(tokenizer: LLTokenizer, n: int) -> None:
    for name, constraint in CONSTRAINTS.items():
        if "json" in constraint:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(rewritten(constraint["json"])))
        else:
            grammar = LLMatcher.grammar_from_regex(constraint["regex"])
        began = time.perf_counter()
        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(**PARSER_LIMITS))
        compiled = time.perf_counter() - began
        took = followed(matcher, n)
        masks, adding, step = (took[what] for what in ("mask", "adding", "step"))
        print(
            f"{name}: compiled in {1000 * compiled:.1f} ms; a mask takes {1000 * median(masks):.3f} ms, the slowest of "
            f"a hundred {1000 * float(np.percentile(masks, 99)):.2f}, the slowest {1000 * max(masks):.2f}; adding it "
            f"to the logits {1000 * median(adding):.3f} ms a token; a step {1000 * median(step):.3f} ms",
            flush=True,
        )


def followed(matcher: LLMatcher, n: int) -> dict[str, list[float]]:
    """Seconds of masks, of adding them to logits, and of steps, along tokens that are chosen at random."""
    chance, took = random.Random(0), {"mask": list[float](), "adding": list[float](), "step": list[float]()}

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        took[what].append(time.perf_counter() - began)

    generator = torch.Generator().manual_seed(0)
    for _ in range(n):
        with timed("mask"):
            packed = matcher.compute_bitmask()
        allowed_V = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
        scores_V = torch.randn(allowed_V.size, generator=generator).numpy()
        # as much of the product's matcher as the sampler asks
        ready = SimpleNamespace(biases=(bias_of(allowed_V),), param="")
        with timed("adding"):
            mask(scores_V, ready, 0)
        token = int(chance.choice(np.flatnonzero(allowed_V)))
        with timed("step"):
            matcher.consume_token(token)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.structured", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2000, help="masks that are timed")
    parser.add_argument("--masks", action="store_true")
    given = parser.parse_args()
    tokenizer = large_tokenizer(QWEN.vocabulary)
    began = time.perf_counter()
    read = read_vocabulary(tokenizer, QWEN.vocabulary, frozenset({0}))
    print(f"vocabulary of {read.vocab_size} tokens read in {time.perf_counter() - began:.1f} s", flush=True)
    print_masks(read, given.steps)
    if not given.masks:
        with split_model(weights_with(tokenizer), given.threads, layers=LAYERS) as split:
            print_tokens(split, given.output, given.rounds)


if __name__ == "__main__":
    main()
