"""`cleangpt train --lora-rank`: the written model has updates of low rank in the weights of its ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cleangpt.cli.materials import gather
from cleangpt.cli.options import options_from
from cleangpt.cli.starting import with_lora
from cleangpt.cli.train_options import TrainOptions
from cleangpt.errors import UsageError
from cleangpt.model.folder import open_model
from cleangpt.trainers import get_trainer
from llm_sepweight import Manifest
from splitlearn.checkpoints.convert import prepare

Run = Callable[..., Any]

_SIZES = ("--model-type", "qwen3", "--n-layer", 3, "--n-head", 2, "--n-embd", 16, "--block-size", 16)
# constant learning rates, so that fewer steps are the beginning of more
_FAST = ("--lr", 0.03, "--warmup", 0, "--schedule", "wsd", "--decay", 0, "--evaluate-every", 1)


@pytest.fixture
def published(cleangpt: Run, story: Path, tmp_path: Path) -> Path:
    """A small model that was trained a little, with its tokenizer."""
    words = ("--tokenizer-type", "character", *_SIZES, "--batch-size", 4, "--max-steps", 2)
    assert cleangpt("train", "--data", story, "--out", tmp_path / "published", *words).code == 0
    return tmp_path / "published"


@pytest.fixture
def words(story: Path, published: Path) -> tuple[object, ...]:
    """The command without --out, --lora-rank and --max-steps."""
    return ("train", "--data", story, "--init-from", published, "--freeze-layers", "1-2", "--batch-size", 4, *_FAST)


def _states(folder: Path) -> dict[str, Tensor]:
    return open_model(folder).state_dict()


def _linear_weights_of_ends(states: dict[str, Tensor]) -> set[str]:
    return {name for name in states if name.endswith("_proj.weight") and ".layers.1." not in name}


def _weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_ends_linear_weights_alone_move_by_no_more_than_the_rank(
    cleangpt: Run, words: tuple[object, ...], published: Path, tmp_path: Path
) -> None:
    ran = cleangpt(*words, "--lora-rank", 2, "--max-steps", 4, "--out", tmp_path / "ends")
    assert ran.code == 0, ran.err
    before, after = _states(published), _states(tmp_path / "ends")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == _linear_weights_of_ends(before)
    # what an update of rank 2 leaves for others is rounding
    assert all(torch.linalg.matrix_rank(after[name] - before[name], atol=1e-6) == 2 for name in moved)


def test_the_written_model_is_the_one_with_the_lowest_validation_loss(
    cleangpt: Run, words: tuple[object, ...], story: Path, tmp_path: Path
) -> None:
    ends = tmp_path / "ends"
    # steps so long that the loss rises again
    assert cleangpt(*words, "--lora-rank", 2, "--lr", 1, "--max-steps", 3, "--out", ends).code == 0
    losses = [each["loss"] for each in json.loads((ends / "history.json").read_text())["evaluations"]]
    assert losses[-1] > min(losses) + 0.01
    options = {"data": str(story), "init_from": ends, "out": tmp_path / "next", "batch_size": 4}
    materials = gather(options_from(TrainOptions, options))
    assert materials.text.validation is not None
    trainer = get_trainer("simple", model=materials.model, dataloader=materials.text.data)
    assert trainer.evaluate(materials.text.validation).loss == pytest.approx(min(losses), abs=1e-5)


def test_a_converted_model_with_updates_has_the_published_trunk(
    cleangpt: Run, words: tuple[object, ...], published: Path, tmp_path: Path
) -> None:
    prepare(str(published)).write(tmp_path / "published-parts")
    base = Manifest.read(tmp_path / "published-parts")
    assert cleangpt(*words, "--lora-rank", 2, "--max-steps", 1, "--out", tmp_path / "ends").code == 0
    ends = prepare(str(tmp_path / "ends"), trunk_of=base).write(tmp_path / "parts")
    assert [name for name in base.files if ends.files[name] == base.files[name]] == ["begin", "mid.00001", "end"]


def test_a_resumed_training_of_updates_is_the_uninterrupted_one(
    cleangpt: Run, words: tuple[object, ...], tmp_path: Path
) -> None:
    lora = (*words, "--lora-rank", 2, "--lora-alpha", 3, "--validation", 0)
    assert cleangpt(*lora, "--max-steps", 5, "--out", tmp_path / "whole").code == 0
    assert cleangpt(*lora, "--max-steps", 2, "--out", tmp_path / "parted").code == 0
    assert _weights(tmp_path / "parted") != _weights(tmp_path / "whole")
    ran = cleangpt(*lora, "--max-steps", 5, "--out", tmp_path / "parted", "--resume")
    assert ran.code == 0, ran.err
    assert _weights(tmp_path / "parted") == _weights(tmp_path / "whole")


def test_a_checkpoint_is_continued_with_its_rank_and_alpha_alone(
    cleangpt: Run, words: tuple[object, ...], tmp_path: Path
) -> None:
    to = ("--out", tmp_path / "ends", "--max-steps")
    assert cleangpt(*words, "--lora-rank", 2, *to, 1).code == 0
    for flags, said in (
        (("--lora-rank", 3), "LoRA rank was 2 and is now 3"),
        (("--lora-rank", 2, "--lora-alpha", 4), "LoRA alpha was 2 and is now 4"),
        ((), "LoRA rank was 2 and is now none"),
    ):
        ran = cleangpt(*words, *flags, *to, 2, "--resume")
        assert (ran.code, said in ran.err) == (1, True), ran.err
    assert cleangpt(*words, "--lora-rank", 2, "--lora-alpha", 2, *to, 2, "--resume").code == 0


def test_a_training_of_updates_is_repeated_to_the_bit_from_its_record(
    cleangpt: Run, words: tuple[object, ...], tmp_path: Path
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("lora_rank = 2\nlora_alpha = 4\n")
    assert cleangpt(*words, "--config", settings, "--max-steps", 3, "--out", tmp_path / "ends").code == 0
    ran = cleangpt("train", "--from", tmp_path / "ends", "--out", tmp_path / "again")
    assert f"the same as {tmp_path / 'ends'}, to the bit: model.safetensors" in ran.out, ran.err
    ran = cleangpt("train", "--from", tmp_path / "ends", "--lora-rank", 1, "--out", tmp_path / "other")
    assert "lora_rank was 2 and is now 1" in ran.out, ran.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lora_rank": 0}, "--lora-rank has to be 1 or more, found 0; leave it out to train all weights of the ends"),
        ({"lora_rank": 2, "lora_alpha": 0}, "--lora-alpha has to be 1 or more, found 0; leave it out"),
        ({"lora_rank": 17}, r"--lora-rank is 17, and model\.layers\.0\.\S+ is 16 wide: .* Give at most 16, or leave"),
        ({"lora_alpha": 2}, "--lora-alpha scales the updates of --lora-rank; give both"),
        ({"lora_rank": 2, "freeze_layers": None}, "--lora-rank .* --freeze-layers"),
        ({"lora_rank": 2, "new_ends": True}, "--lora-rank .* no --new-ends"),
    ],
)
def test_a_rank_that_is_none_of_the_ends_updates_is_refused(
    story: Path, published: Path, tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    fixed = {"data": str(story), "out": tmp_path / "out", "init_from": published, "freeze_layers": "1-2"}
    with pytest.raises(UsageError, match=said):
        gather(options_from(TrainOptions, {**fixed, **given}))


def test_ends_without_a_linear_layer_that_could_be_updated_are_refused(published: Path) -> None:
    frozen = open_model(published).requires_grad_(False)
    with pytest.raises(UsageError, match="the ends of this qwen3 have none; leave it out"):
        with_lora(frozen, rank=1, alpha=1, seed=0)
