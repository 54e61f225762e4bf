"""Hugging Face's side in a process of its own: reads questions from a pipe, a line of JSON each, and answers in kind.

`python -m tests.benchmarks.huggingface CHECKPOINT THREADS`. Shapes: B prompts of one length, T tokens.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

PAGE_ROWS = 256
# Left to itself it takes 60 % of the memory and 8192 rows a step, with a mask over both: that swaps, or crawls.
STEP_ROWS = 512

Json = dict[str, Any]


@torch.inference_mode()
def generate(model: PreTrainedModel, asked: Json) -> Json:
    """Greedy, `n` tokens after each of `prompts`, which have one length."""
    ids_BT = torch.tensor(asked["prompts"])
    made_BT = model.generate(ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=asked["n"], do_sample=False)
    return {"tokens": made_BT.numel() - ids_BT.numel()}


@torch.inference_mode()
def forward(model: PreTrainedModel, asked: Json) -> Json:
    """One forward of `prompt` that keeps what the next token needs: the cache, and the last row's logits."""
    made = model(torch.tensor([asked["prompt"]]), use_cache=True, logits_to_keep=1)
    return {"token": int(made.logits[0, -1].argmax())}


def continuous(model: PreTrainedModel, asked: Json) -> Json:
    """`requests` (`at` seconds after the start, `prompt`, `n` tokens) through its continuous batching."""
    requests = asked["requests"]
    pages = sum(-(-(len(each["prompt"]) + each["n"]) // PAGE_ROWS) + 1 for each in requests)
    batching = ContinuousBatchingConfig(page_size=PAGE_ROWS, num_blocks=pages, max_batch_tokens=STEP_ROWS)
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
    with model.continuous_batching_context_manager(
        generation_config=greedy, continuous_batching_config=batching
    ) as running:
        running.add_request(list(range(3, 3 + STEP_ROWS)), max_new_tokens=2)
        _wait_for(running, 1)
        began = time.perf_counter()
        made = 0
        for each in requests:
            while (left := began + each["at"] - time.perf_counter()) > 0:
                made += _tokens(running.get_result(timeout=left))
            running.add_request(each["prompt"], max_new_tokens=each["n"])
        while made < sum(each["n"] for each in requests):
            made += _wait_for(running, 1)
        seconds = time.perf_counter() - began
    return {"tokens": made, "seconds": seconds}


def _wait_for(running: Any, count: int) -> int:
    """Tokens of the next `count` requests that end."""
    made = 0
    while count:
        result = running.get_result(timeout=1)
        if result is None and not running.is_running():
            raise SystemExit("transformers' continuous batching stopped")
        count -= result is not None
        made += _tokens(result)
    return made


def _tokens(result: Any) -> int:
    if result is not None and result.error is not None:
        raise SystemExit(f"transformers' continuous batching failed: {result.error}")
    return 0 if result is None else len(result.generated_tokens)


QUESTIONS: dict[str, Callable[[PreTrainedModel, Json], Json]] = {
    "generate": generate,
    "forward": forward,
    "continuous": continuous,
}


def main(checkpoint: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()
    model.generation_config.pad_token_id = 0
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(QUESTIONS[asked["what"]](model, asked)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
