"""Shapes: T rows, D hidden size, V vocabulary."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from llm_sepweight import Manifest, MissingFileError, PartSpec, load
from splitlearn.backends.cpu.kernels import kernels
from splitlearn.backends.cpu.linear import screen
from splitlearn.backends.cpu.packing import pack
from splitlearn.calibration.directory import quantize
from splitlearn.checkpoints.int4 import packed_weights
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import DeviceThread, cores_name
from splitlearn.errors import BadDevice
from splitlearn.model.plan import SplitPlan, fingerprint
from splitlearn_client.choosing import Choosing
from splitlearn_client.local_parts import LocalParts
from splitlearn_client.sampling import Sampler, SamplingSettings
from splitlearn_client.settings import ClientSettings
from support.int4_checkpoints import save_int4_sepweight
from support.tiny_models import N_LAYERS, VOCABULARY, random_model, save_sepweight, tiny_config

PLAN = SplitPlan(2, 3, N_LAYERS)


@pytest.fixture(scope="module")
def thread() -> Iterator[DeviceThread]:
    with DeviceThread(1) as thread:
        yield thread


def load_parts(weights: Path, thread: DeviceThread, plan: SplitPlan = PLAN, dtype: str | None = None) -> LocalParts:
    return LocalParts.load(ClientSettings(weights=weights, device="cpu", dtype=dtype), plan, thread)


async def test_bottom_and_top_around_the_trunk_are_the_whole_model(
    tiny_weights: Path, tiny_llama: PreTrainedModel, thread: DeviceThread
) -> None:
    parts = load_parts(tiny_weights, thread)
    trunk = load_part(tiny_weights, PLAN.trunk)
    ids_T = torch.arange(5, 25)
    hidden_TD = (await parts.bottom.step(parts.bottom.open(), 0, ids_T)).output
    rows_TD = trunk(hidden_TD, 0, trunk.new_cache())
    logits_V = (await parts.top.step(parts.top.open(), 0, rows_TD)).output
    with torch.inference_mode():
        expected_V = tiny_llama(ids_T[None]).logits[0, -1]
    torch.testing.assert_close(logits_V, expected_V, atol=1e-4, rtol=0)


@pytest.mark.skipif(kernels() is None, reason="no kernels of our own run here")
async def test_a_greedy_choice_needs_no_other_logits_and_an_own_screen_of_the_head_says_which(
    tmp_path: Path, thread: DeviceThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "_FEWEST_WEIGHTS", 0)
    model = random_model(tiny_config("llama", vocab_size=4000)).bfloat16()
    weights = save_sepweight(tmp_path, model, chat=False, dtype="bfloat16")
    seen: dict[bool, list[tuple[int, bool]]] = {}
    for screens in (True, False):
        settings = ClientSettings(weights=weights, device="cpu", screen_head=screens)
        top = LocalParts.load(settings, PLAN, thread).top
        rows_TD = torch.randn(6, top.part.hidden_size, generator=torch.Generator().manual_seed(0)).bfloat16()
        seen[screens] = []
        for sampling in (SamplingSettings(temperature=0), SamplingSettings(temperature=0, top_logprobs=1)):
            choosing = Choosing([1] * 6, [Sampler(sampling)])
            step = await top.step(top.open(), 0, rows_TD, choosing, choosing.row_reader, choosing.n_likeliest)
            seen[screens].append((choosing.choices[0].token, bool(step.output.isinf().any())))
    (token, _), _ = seen[False]
    assert seen == {True: [(token, True), (token, False)], False: [(token, False), (token, False)]}


def test_the_fingerprint_is_what_a_trunk_of_this_cut_and_dtype_answers(
    tiny_weights: Path, thread: DeviceThread
) -> None:
    manifest = Manifest.read(tiny_weights)
    assert load_parts(tiny_weights, thread).fingerprint == fingerprint(manifest, PLAN, "float32")
    assert load_parts(tiny_weights, thread, dtype="bfloat16").fingerprint == fingerprint(manifest, PLAN, "bfloat16")
    assert load_parts(tiny_weights, thread, SplitPlan(1, 4, N_LAYERS)).fingerprint != fingerprint(
        manifest, PLAN, "float32"
    )


def test_the_trunk_s_files_need_not_be_there(tiny_weights: Path, tmp_path: Path, thread: DeviceThread) -> None:
    weights = tmp_path / "parts"
    shutil.copytree(tiny_weights, weights)
    for file in weights.glob("mid.00002*"):
        file.unlink()
    assert load_parts(weights, thread).plan == PLAN
    with pytest.raises(MissingFileError, match=r"mid\.00002"):
        load_parts(weights, thread, SplitPlan(3, 4, N_LAYERS))


def test_each_end_holds_only_its_own_layers(tiny_weights: Path, thread: DeviceThread) -> None:
    parts = load_parts(tiny_weights, thread)
    assert parts.bottom.part.spec == PartSpec(begin=True, layers=(range(2),), end=False)
    assert parts.top.part.spec == PartSpec(begin=False, layers=(range(3, N_LAYERS),), end=True)


def test_weights_that_the_files_have_in_4_bits_are_not_rounded_again(tmp_path: Path, thread: DeviceThread) -> None:
    folder, weights = save_int4_sepweight(tmp_path)
    parts = LocalParts.load(ClientSettings(weights=folder, device="cpu", quantization="int4"), PLAN, thread)
    for part, layer in ((parts.bottom.part, 0), (parts.top.part, PLAN.last)):
        up = part.get_submodule(f"model.model.layers.{layer - part.layers.start}.mlp.up_proj").weight
        assert torch.equal(up, weights[f"model.layers.{layer}.mlp.up_proj.weight"].bfloat16())


async def test_a_tied_head_that_was_quantized_after_texts_gives_the_logits_of_its_own_levels(
    tmp_path: Path, thread: DeviceThread
) -> None:
    config = tiny_config("qwen2", tie_word_embeddings=True)
    weights, ids_T = save_sepweight(tmp_path, random_model(config)), torch.arange(5, 25)
    quantize(weights, tmp_path / "out", torch.randint(3, VOCABULARY, (8, 48)).tolist())
    settings = ClientSettings(weights=tmp_path / "out", device="cpu", quantization="int4")
    parts, trunk = LocalParts.load(settings, PLAN, thread), load_part(tmp_path / "out", PLAN.trunk, keep_int4=True)
    pack(trunk, "int4")
    hidden_TD = (await parts.bottom.step(parts.bottom.open(), 0, ids_T)).output
    logits_V = (await parts.top.step(parts.top.open(), 0, trunk(hidden_TD, 0, trunk.new_cache()))).output

    # Hugging Face's model with the numbers that the levels stand for, and the embedding's own in the embedding alone
    numbers = load_part(tmp_path / "out", "f").model.state_dict()
    stored = load(tmp_path / "out", "e").to_dict()
    stored = {key.removeprefix("end."): tensor for key, tensor in stored.items()}
    numbers["lm_head.weight"] = packed_weights(stored, {"lm_head.weight"})["lm_head.weight"].dequantized(torch.float32)
    assert not torch.equal(numbers["lm_head.weight"], numbers["model.embed_tokens.weight"])
    whole = random_model(tiny_config("qwen2", tie_word_embeddings=False))
    whole.load_state_dict(numbers)
    with torch.inference_mode():
        torch.testing.assert_close(logits_V, whole(ids_T[None]).logits[0, -1], atol=1e-4, rtol=0)


def test_a_dtype_that_cannot_be_run_is_refused(tiny_weights: Path, thread: DeviceThread) -> None:
    with pytest.raises(BadDevice, match="int3"):
        load_parts(tiny_weights, thread, dtype="int3")


def test_only_on_the_trunk_s_own_cores_are_they_kept_free_between_tokens(
    tiny_weights: Path, thread: DeviceThread
) -> None:
    parts = LocalParts.load(
        ClientSettings(weights=tiny_weights, device="cpu"), SplitPlan.parse("1-4", N_LAYERS), thread
    )
    for name, expected in ((cores_name(), cores_name() is not None), ("others", False), (None, False)):
        parts.learn_trunk_cores(name)
        assert thread.shares_cores is expected
