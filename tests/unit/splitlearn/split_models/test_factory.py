import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from splitlearn import ModelFactory
from splitlearn.errors import BadCheckpoint, BadDevice, BadPlan, BadRegistration, UnsupportedModel
from splitlearn.split_models import GPT2BottomModel, GPT2TopModel, GPT2TrunkModel
from splitlearn.split_models.base import BaseBottomModel
from splitlearn.split_models.registry import ModelRegistry
from support import handmade
from support.tiny_models import VOCABULARY, random_model, save_sepweight, tiny_config

IDS = torch.randint(3, VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def gpt2() -> PreTrainedModel:
    return random_model(tiny_config("gpt2")).requires_grad_(False)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory, gpt2: PreTrainedModel) -> dict[str, Path]:
    """The same model as a checkpoint and as a sepweight directory."""
    weights = save_sepweight(tmp_path_factory.mktemp("gpt2"), gpt2)
    return {"checkpoint": weights.parent / "checkpoint", "sepweight": weights}


@pytest.mark.parametrize("kind", ["checkpoint", "sepweight"])
def test_three_parts_of_a_model_on_disk_are_the_whole_model(
    kind: str, on_disk: dict[str, Path], gpt2: PreTrainedModel
) -> None:
    bottom, trunk, top = ModelFactory.create_split_models("gpt2", str(on_disk[kind]), 1, 3, "cpu")
    assert (type(bottom), type(trunk), type(top)) == (GPT2BottomModel, GPT2TrunkModel, GPT2TopModel)
    assert (trunk.start_layer, trunk.end_layer, top.end_layer) == (1, 3, 5)
    assert not any(part.training for part in (bottom, trunk, top))
    torch.testing.assert_close(top(trunk(bottom(IDS))).logits, gpt2(IDS).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("kind", ["checkpoint", "sepweight"])
def test_bottom_and_top_share_a_tied_embedding(kind: str, dtype: str | None, on_disk: dict[str, Path]) -> None:
    bottom, _, top = ModelFactory.create_split_models(model_name_or_path=on_disk[kind], dtype=dtype)
    assert bottom.get_embeddings().weight.data_ptr() == top.get_lm_head().weight.data_ptr()


def test_any_architecture_of_transformers_can_be_named(
    tiny_weights: Path, tiny_llama: PreTrainedModel, on_disk: dict[str, Path]
) -> None:
    bottom, trunk, top = ModelFactory.create_split_models("llama", tiny_weights)
    assert type(trunk).__name__ == "LlamaTrunkModel"
    torch.testing.assert_close(top(trunk(bottom(IDS))).logits, tiny_llama(IDS).logits, atol=1e-4, rtol=0)


def test_only_the_parts_that_are_wanted_are_made_and_read(tmp_path: Path, tiny_weights: Path) -> None:
    shutil.copytree(tiny_weights, tmp_path / "worker")
    (tmp_path / "worker" / "begin.safetensors").unlink()
    made = ModelFactory.create_split_models(
        model_name_or_path=tmp_path / "worker", split_point_1=1, split_point_2=4, parts=("top", "trunk")
    )
    assert [part.part_name for part in made] == ["top", "trunk"]


def test_dtype_and_attention_are_as_asked(on_disk: dict[str, Path]) -> None:
    (trunk,) = ModelFactory.create_split_models(
        model_name_or_path=on_disk["checkpoint"], dtype=torch.float16, parts=["trunk"], attn_implementation="eager"
    )
    assert trunk.part.dtype == torch.float16
    assert trunk.part.config._attn_implementation == "eager"


def test_without_split_points_a_twelfth_of_the_layers_stays_at_each_end(on_disk: dict[str, Path]) -> None:
    bottom, trunk, top = ModelFactory.create_split_models(model_name_or_path=on_disk["sepweight"])
    assert (bottom.end_layer, trunk.end_layer, top.start_layer) == (1, 4, 4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_type": "llama"}, UnsupportedModel, r"is a gpt2, not a llama"),
        ({"split_point_1": 3, "split_point_2": 2}, BadPlan, "5 layers"),
        ({"split_point_1": 3, "split_point_2": 9}, BadPlan, "5 layers"),
        ({"split_point_1": 3}, BadPlan, "split_point_2"),
        ({"parts": ["bottom", "middle"]}, BadPlan, "bottom, trunk, top; found bottom, middle"),
        ({"dtype": "int3"}, BadDevice, "int3"),
        ({"device": "abacus"}, BadDevice, "abacus"),
        ({"model_name_or_path": ""}, BadCheckpoint, "give model_name_or_path"),
        ({"model_name_or_path": "no/such"}, BadCheckpoint, "no/such"),
    ],
)
@pytest.mark.parametrize("kind", ["checkpoint", "sepweight"])
def test_what_cannot_be_made_is_refused_with_the_reason(
    kind: str, changes: dict[str, Any], error: type[Exception], message: str, on_disk: dict[str, Path]
) -> None:
    with pytest.raises(error, match=message):
        ModelFactory.create_split_models(**{"model_name_or_path": on_disk[kind], **changes})


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_saved_parts_come_back_from_their_two_files_alone(
    tmp_path: Path, suffix: str, on_disk: dict[str, Path], gpt2: PreTrainedModel
) -> None:
    for part in ModelFactory.create_split_models(model_name_or_path=on_disk["checkpoint"]):
        part.save_split_model(tmp_path / f"gpt2_1-4_{part.part_name}.{suffix}")
    bottom, trunk, top = (
        ModelFactory.load_split_model(tmp_path / f"gpt2_1-4_{part}.{suffix}") for part in ("bottom", "trunk", "top")
    )
    assert isinstance(trunk, GPT2TrunkModel)
    torch.testing.assert_close(top(trunk(bottom(IDS))).logits, gpt2(IDS).logits, atol=1e-4, rtol=0)
    assert ModelFactory.load_split_model(tmp_path / f"gpt2_1-4_trunk.{suffix}", dtype="bfloat16").part.dtype == (
        torch.bfloat16
    )


def test_a_saved_part_takes_no_more_disk_than_its_tensors(tmp_path: Path, on_disk: dict[str, Path]) -> None:
    for part in ModelFactory.create_split_models(model_name_or_path=on_disk["checkpoint"]):
        part.save_split_model(tmp_path / "x.pt")
        held = sum(tensor.nbytes for tensor in part.state_dict().values())
        assert (tmp_path / "x.pt").stat().st_size < held * 1.01 + 10_000


def test_a_twin_in_the_other_format_uses_the_same_metadata(tmp_path: Path, on_disk: dict[str, Path]) -> None:
    (trunk,) = ModelFactory.create_split_models(model_name_or_path=on_disk["checkpoint"], parts=["trunk"])
    trunk.save_split_model(tmp_path / "x.pt")
    trunk.save_split_model(tmp_path / "x.safetensors")
    for name in ("x.pt", "x.safetensors"):
        loaded = ModelFactory.load_split_model(tmp_path / name)
        assert torch.equal(loaded(torch.ones(1, 2, 64)), trunk(torch.ones(1, 2, 64)))


def test_an_architecture_of_ones_own_is_made_saved_and_loaded_like_any_other(tmp_path: Path) -> None:
    model = handmade.whole_model()
    folder = handmade.save_checkpoint(tmp_path / "checkpoint", model)
    parts = ModelFactory.create_split_models("handmade", folder, 1, 3)
    ids = IDS % handmade.VOCABULARY
    for name in ("made", "loaded"):
        bottom, trunk, top = parts
        torch.testing.assert_close(top(trunk(bottom(ids))).logits, model(ids), atol=1e-5, rtol=0)
        assert not any(part.training or next(part.parameters()).requires_grad for part in parts)
        if name == "made":
            for part in parts:
                part.save_split_model(tmp_path / "saved" / f"{part.part_name}.pt")
            parts = tuple(
                ModelFactory.load_split_model(tmp_path / "saved" / f"{part}.pt") for part in ("bottom", "trunk", "top")
            )


def test_saved_weights_of_ones_own_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = handmade.save_checkpoint(tmp_path / "checkpoint", handmade.whole_model())
    (trunk,) = ModelFactory.create_split_models("handmade", folder, 1, 3, parts=["trunk"])
    trunk.save_split_model(tmp_path / "x.pt")
    metadata = json.loads((tmp_path / "x_metadata.json").read_text())
    (tmp_path / "x_metadata.json").write_text(json.dumps({**metadata, "end_layer": 4}))
    with pytest.raises(BadCheckpoint, match=r"x\.pt does not fit its metadata"):
        ModelFactory.load_split_model(tmp_path / "x.pt")


def test_a_part_that_was_not_registered_is_named(tmp_path: Path) -> None:
    folder = handmade.save_checkpoint(tmp_path / "checkpoint", handmade.whole_model(), model_type="unheard of")
    with pytest.raises(UnsupportedModel, match="'unheard of' has no bottom"):
        ModelFactory.create_split_models("unheard of", folder, 1, 3)


def test_a_class_that_does_not_return_its_model_is_refused_by_name(tmp_path: Path) -> None:
    @ModelRegistry.register("forgetful", "bottom")
    class Forgetful(handmade.HandmadeBottom):
        @classmethod
        def from_pretrained_split(cls, full_state_dict: Any, config: Any, end_layer: int) -> Any:
            return None

    assert issubclass(Forgetful, BaseBottomModel)
    folder = handmade.save_checkpoint(tmp_path / "checkpoint", handmade.whole_model(), model_type="forgetful")
    with pytest.raises(BadRegistration, match=r"Forgetful\.from_pretrained_split returned NoneType"):
        ModelFactory.create_split_models("forgetful", folder, 1, 3, parts=["bottom"])
