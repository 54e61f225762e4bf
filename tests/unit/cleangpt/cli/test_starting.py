import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from cleangpt.cli.materials import gather
from cleangpt.cli.options import options_from
from cleangpt.cli.train_options import TrainOptions
from cleangpt.config import GPTConfig
from cleangpt.errors import ModelFolderError, UsageError
from cleangpt.model import get_model
from cleangpt.model.folder import open_model
from splitlearn.checkpoints.convert import prepare
from splitlearn.errors import BadPlan

Run = Callable[..., Any]

_SIZES = {"model_type": "Factored", "n_layer": 3, "n_head": 2, "n_embd": 16, "block_size": 16, "alibi": False}


@pytest.fixture
def saved(story: Path, tmp_path: Path) -> Path:
    """A small model and its tokenizer, as `save_pretrained` writes them."""
    given = {"data": str(story), "out": tmp_path / "out", "tokenizer_type": "character", **_SIZES}
    materials = gather(options_from(TrainOptions, given))
    materials.model.save_pretrained(tmp_path / "saved")
    materials.tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def options(story: Path, saved: Path, tmp_path: Path) -> Callable[..., TrainOptions]:
    def make(**given: Any) -> TrainOptions:
        fixed = {"data": str(story), "out": tmp_path / "next", "init_from": saved}
        return options_from(TrainOptions, {**fixed, **given})

    return make


@pytest.mark.parametrize("kind", ["hugging face", "sepweight", "bfloat16"])
def test_a_training_starts_from_the_weights_and_the_tokenizer_of_a_folder(
    options: Callable[..., TrainOptions], saved: Path, tmp_path: Path, kind: str
) -> None:
    folder = saved
    if kind == "sepweight":
        prepare(str(saved)).write(tmp_path / "parts")
        folder = tmp_path / "parts"
    if kind == "bfloat16":
        open_model(saved).to(torch.bfloat16).save_pretrained(saved)
    materials = gather(options(init_from=folder))
    expected = open_model(saved).state_dict()
    assert materials.model.dtype == torch.float32
    assert all(torch.equal(value, expected[name].float()) for name, value in materials.model.state_dict().items())
    assert all(each.requires_grad for each in materials.model.parameters())
    assert materials.tokenizer.fast.get_vocab() == AutoTokenizer.from_pretrained(saved).get_vocab()
    # blocks as long as the model has positions, and the id that is predicted last
    assert materials.text.data.batches(0)[0].ids_BT.shape[1] == 17


def test_the_first_loss_goes_on_where_the_saved_model_was_and_resuming_needs_the_same_start(
    cleangpt: Run, story: Path, tmp_path: Path
) -> None:
    sizes = ("--tokenizer-type", "character", "--n-layer", 1, "--n-head", 2, "--n-embd", 16, "--block-size", 16)
    fast = ("--batch-size", 4, "--warmup", 0, "--lr", 0.03)
    first = ("train", "--data", story, "--out", tmp_path / "a", *sizes, *fast, "--max-steps", 60)
    assert cleangpt(*first).code == 0
    words = ("train", "--data", story, "--out", tmp_path / "b", "--init_from", tmp_path / "a", *fast)
    ran = cleangpt(*words, "--max-steps", 2)
    assert ran.code == 0, ran.err
    losses = [json.loads((tmp_path / each / "history.json").read_text())["losses"] for each in "ab"]
    assert losses[1][0] < losses[0][0] / 2
    assert cleangpt(*words, "--max-steps", 3, "--resume").code == 0
    assert cleangpt(*first[:4], tmp_path / "c", *sizes, *fast, "--max-steps", 1, "--seed", 1).code == 0
    other = cleangpt(*words, "--init_from", tmp_path / "c", "--max-steps", 3, "--resume")
    assert "other start weights" in other.err


def test_frozen_layers_keep_their_weights_and_all_others_learn(cleangpt: Run, saved: Path, tmp_path: Path) -> None:
    fast = ("--warmup", 0, "--lr", 0.03, "--max-steps", 2)
    words = ("train", "--data", tmp_path / "story.txt", "--out", tmp_path / "ends", "--init-from", saved)
    ran = cleangpt(*words, "--freeze-layers", "1-2", *fast)
    assert ran.code == 0, ran.err
    assert f"--out {tmp_path / 'ends-parts'} --trunk-of DIR_THAT_THE_TRUNK_SERVES\n" in ran.out
    before, after = open_model(saved).state_dict(), open_model(tmp_path / "ends").state_dict()
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert same == {name for name in before if ".1." in name}
    longer = (*words, *fast[:-1], 3, "--resume")
    assert "frozen layers was 1-2 and is now none" in cleangpt(*longer).err
    assert cleangpt(*longer, "--freeze-layers", "1-2").code == 0


def test_the_next_command_names_the_trunk_s_model_where_it_is_converted(
    cleangpt: Run, saved: Path, tmp_path: Path
) -> None:
    prepare(str(saved)).write(tmp_path / "parts")
    words = ("train", "--data", tmp_path / "story.txt", "--out", tmp_path / "ends", "--init-from", tmp_path / "parts")
    ran = cleangpt(*words, "--freeze-layers", "1-2", "--max-steps", 1)
    assert f"--out {tmp_path / 'ends-parts'} --trunk-of {tmp_path / 'parts'}\n" in ran.out


def test_new_ends_are_drawn_from_the_seed_around_the_frozen_layers(options: Callable[..., TrainOptions]) -> None:
    start = gather(options()).model.state_dict()
    models = [gather(options(freeze_layers="1-2", new_ends=True, seed=seed)).model for seed in (1, 1, 2)]
    first, again, other = (each.state_dict() for each in models)
    # some matrices begin as they do in every model of the type
    ends, frozen = ("model.embed_tokens.weight", "model.layers.0.mlp.up.weight"), "model.layers.1.mlp.up.weight"
    for one in (start, other):
        assert not any(torch.equal(first[name], one[name]) for name in ends)
        assert torch.equal(first[frozen], one[frozen])
    assert all(torch.equal(first[name], again[name]) for name in start)
    assert {name for name, each in models[0].named_parameters() if not each.requires_grad} == {
        name for name, _ in models[0].named_parameters() if ".1." in name
    }


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"new_ends": True}, UsageError, "--new-ends .* --freeze-layers; give both"),
        ({"freeze_layers": "0-2"}, BadPlan, "0-2 of 3 leave the client none"),
        ({"freeze_layers": "one"}, BadPlan, "cannot read layers 'one'"),
        ({"freeze_layers": "1-2", "init_from": None}, UsageError, "--freeze-layers .* --init-from .* give both"),
    ],
)
def test_only_a_middle_of_a_saved_model_can_be_frozen(
    options: Callable[..., TrainOptions], given: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        gather(options(**given))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        # the default of a new model, but not what the folder holds
        ({"n_layer": 6}, "--n-layer is 6, and the model in .*saved has 3"),
        ({"n_embd": 32}, "--n-embd is 32"),
        ({"vocab_size": 300}, "--vocab-size is 300"),
        ({"bias": False}, "--bias is False, and the model in .* has True"),
        ({"head_mixing": False}, "--head-mixing is False, and the model in .* has True"),
        ({"skip_connections": True}, "--skip-connections is True, and the model in .* has none"),
        ({"model_type": "SASP"}, "--model-type is SASP, and the model in .* is of type cleangpt_factored"),
        ({"model_type": "FactoredALiBi"}, "--model-type is FactoredALiBi"),
        ({"model_type": "llama"}, "--model-type is llama"),
        ({"model": {"rope_theta": 3}}, r"rope_theta in the table \[model\] is 3, and the model in .* has none"),
        ({"block_size": 17}, "--block-size is 17, and the model in .* has 16 positions"),
        ({"tokenizer_type": "bpe"}, "the tokenizer has [0-9]+ tokens, and the model in .* has ids below 20"),
    ],
)
def test_a_flag_that_contradicts_the_folder_is_refused(
    options: Callable[..., TrainOptions], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        gather(options(**given))


def test_flags_that_say_what_the_folder_holds_are_none_to_refuse(options: Callable[..., TrainOptions]) -> None:
    gather(options(**_SIZES, tokenizer_type="character", vocab_size=300, model={"layer_norm_epsilon": 1e-5}))
    assert gather(options(block_size=8)).text.data.batches(0)[0].ids_BT.shape[1] == 9


def test_a_model_with_an_option_that_another_type_lacks_is_told_apart_by_its_type(
    options: Callable[..., TrainOptions], saved: Path
) -> None:
    config = GPTConfig("Factored", vocab_size=300, n_layer=3, n_head=2, n_embd=16, block_size=16, head_mixing=False)
    get_model("Factored", config).save_pretrained(saved)
    assert not gather(options(model_type="Factored", head_mixing=False)).model.config.head_mixing
    with pytest.raises(UsageError, match=r"--head-mixing is True, and the model in .* has False"):
        gather(options(head_mixing=True))
    with pytest.raises(UsageError, match=r"--model-type is SASP, and the model in .* is of type cleangpt_factored"):
        gather(options(model_type="SASP"))


def test_a_folder_without_a_model_and_the_folder_to_write_to_are_refused(
    options: Callable[..., TrainOptions], saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelFolderError, match="nowhere"):
        gather(options(init_from=tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="--init-from and --out are both"):
        gather(options(out=saved))
