"""Both ends of a split with a directory that `splitlearn quantize` made say what the whole model says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.backends.cpu.packing import pack
from splitlearn.calibration.directory import quantize
from splitlearn.checkpoints.load import load_part
from splitlearn.runner.interface import Runner, SequenceInput
from splitlearn.runner.select import runner_for
from support.running_split import running_client, running_trunk
from support.tiny_models import VOCABULARY, random_model, save_sepweight, tiny_config

PROMPT = torch.randint(3, VOCABULARY, (24,), generator=torch.Generator().manual_seed(7)).tolist()
N_TOKENS = 16


def of_the_whole_model(weights: Path) -> list[int]:
    """Through a runner: another order of sums would decide where two tokens are nearly as likely."""
    part = load_part(weights, "f", keep_int4=True)
    pack(part, "int4")
    runner: Runner[Any] = runner_for(part)
    kv, position, rows, tokens = runner.new_kv(len(PROMPT) + N_TOKENS), 0, torch.tensor(PROMPT), []
    for _ in range(N_TOKENS):
        (logits,) = runner.run([SequenceInput(kv, position, rows, "last")])
        token = logits.argmax()
        position, rows = position + len(rows), token[None]
        tokens.append(int(token))
    return tokens


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("model_type", "is_tied"), [("llama", False), ("qwen2", True), ("gpt2", True)])
async def test_a_split_says_what_the_whole_model_says(
    model_type: str, is_tied: bool, dtype: str, tmp_path: Path
) -> None:
    model = random_model(tiny_config(model_type, eos_token_id=None, tie_word_embeddings=is_tied))
    prompts = torch.randint(3, VOCABULARY, (8, 48), generator=torch.Generator().manual_seed(1)).tolist()
    quantize(save_sepweight(tmp_path, model, dtype=dtype), tmp_path / "quantized", prompts)
    weights = tmp_path / "quantized"
    async with (
        running_trunk(weights, quantization="int4") as trunk,
        running_client(weights, trunk.address, quantization="int4") as client,
    ):
        await client.ready()
        reply = await client.complete(prompt=PROMPT, max_tokens=N_TOKENS, return_token_ids=True)
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["token_ids"] == of_the_whole_model(weights)
