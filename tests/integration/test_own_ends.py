"""A client whose bottom and top were trained again, with a worker that has the model they come from."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from llm_sepweight import Manifest
from splitlearn.checkpoints.convert import prepare
from support.own_ends import LAYERS, with_other_ends
from support.running_split import running_client, running_trunk, until
from support.tiny_models import save_checkpoint, tiny_tokenizer

PROMPT = [5, 6, 7, 8, 9]
N = 12


@pytest.fixture(scope="module")
def retrained(tiny_llama: PreTrainedModel) -> PreTrainedModel:
    return with_other_ends(tiny_llama)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory, retrained: PreTrainedModel, tiny_weights: Path) -> Path:
    folder = tmp_path_factory.mktemp("ends")
    checkpoint = save_checkpoint(folder / "checkpoint", retrained)
    prepare(str(checkpoint), trunk_of=Manifest.read(tiny_weights)).write(folder / "ends")
    return folder / "ends"


@torch.inference_mode()
def said_by(model: PreTrainedModel) -> str:
    output_1T = model.generate(torch.tensor([PROMPT]), do_sample=False, max_new_tokens=N, eos_token_id=None)
    return str(tiny_tokenizer().decode(output_1T[0, len(PROMPT) :]))


async def test_answers_are_those_of_the_model_with_its_own_ends(
    tiny_weights: Path, tiny_llama: PreTrainedModel, ends: Path, retrained: PreTrainedModel
) -> None:
    async with running_trunk(tiny_weights, LAYERS) as trunk, running_client(ends, trunk.address) as client:
        await client.ready()
        answer = (await client.complete(prompt=PROMPT, max_tokens=N, ignore_eos=True)).json()
    assert answer["choices"][0]["text"] == said_by(retrained) != said_by(tiny_llama)


async def test_a_worker_that_has_a_layer_of_the_ends_as_well_is_another_trunk(tiny_weights: Path, ends: Path) -> None:
    async with running_trunk(tiny_weights, "1-4") as trunk, running_client(ends, trunk.address) as client:
        await until(lambda: trunk.fingerprint in (client.service.connection.not_ready_reason or ""))
        refused = await client.complete(prompt=PROMPT)
    assert refused.status_code == 503
    assert f"[{trunk.fingerprint}]" in refused.json()["error"]["message"]
