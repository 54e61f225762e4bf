import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cleangpt.cli.materials import gather
from cleangpt.cli.options import options_from
from cleangpt.cli.train_options import TrainOptions
from cleangpt.errors import (
    BadConfigError,
    ModelFormError,
    ModelOptionError,
    ModelUnknownError,
    TextTooShortError,
)
from cleangpt.model import MODEL_REGISTRY
from splitlearn.checkpoints.convert import prepare

Run = Callable[..., Any]

_TINY = ("--n-layer", 1, "--n-head", 2, "--n-embd", 16, "--block-size", 16, "--batch-size", 4, "--warmup", 2)
_CHARACTERS = ("--tokenizer-type", "character", *_TINY)
_DEMO = Path(__file__).parents[4] / "deploy" / "demo_model" / "train.toml"


def _options(story: Path, **given: Any) -> TrainOptions:
    tiny = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "tokenizer_type": "character"}
    return options_from(TrainOptions, {"data": str(story), "out": story.parent / "out", **tiny, **given})


@pytest.mark.parametrize("model_type", ["Vanilla", "SASP", "Factored", "FactoredALiBi", "qwen3"])
def test_a_trained_model_loads_with_its_tokenizer_and_can_be_cut(
    cleangpt: Run, story: Path, tmp_path: Path, model_type: str
) -> None:
    out = tmp_path / "out"
    words = ("--model-type", model_type, *_CHARACTERS, "--n-layer", 3, "--max-steps", 3)
    ran = cleangpt("train", "--data", story, "--out", out, *words)
    assert ran.code == 0, ran.err
    assert f"next:  splitlearn convert {out} --out {out}-parts\n       splitlearn up {out}-parts\n" in ran.out
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids_BT = torch.tensor([tokenizer.encode("A cat sat")])
    assert model(ids_BT).logits.shape == (1, 9, len(tokenizer))
    history = json.loads((out / "history.json").read_text())
    assert len(history["losses"]) == 3
    assert len(history["evaluations"]) == 1
    assert (out / "curves.png").exists()
    assert prepare(str(out)).write(tmp_path / "parts").n_layers == 3


@pytest.mark.parametrize("model_type", ["gptj", "falcon", "bart", "mbart"])
def test_types_with_sizes_of_their_own_names_get_those_that_were_asked_for(story: Path, model_type: str) -> None:
    model = gather(_options(story, model_type=model_type, n_layer=3)).model
    layers = max((each for each in model.modules() if isinstance(each, torch.nn.ModuleList)), key=len)
    assert len(layers) == 3
    assert sum(each.numel() for each in model.parameters()) < 20_000
    assert model(torch.zeros(1, 16, dtype=torch.long)).logits.shape[:2] == (1, 16)


@pytest.mark.parametrize("model_type", ["electra", "xlnet"])
def test_a_type_that_is_not_causal_is_one_line(cleangpt: Run, story: Path, tmp_path: Path, model_type: str) -> None:
    words = ("--model-type", model_type, *_CHARACTERS, "--max-steps", 1)
    ran = cleangpt("train", "--data", story, "--out", tmp_path / "out", *words)
    assert ran.code == 1
    assert f"cleangpt: error: {model_type} predicts an id from those after it" in ran.err
    assert not (tmp_path / "out").exists()


def test_sizes_that_a_type_cannot_have_are_one_line_that_says_what_to_change(story: Path) -> None:
    with pytest.raises(BadConfigError, match=r"codegen cannot be made .* of these sizes: .*Change --n-layer"):
        gather(_options(story, model_type="codegen", n_head=1, n_embd=6))


def test_a_plain_module_that_was_registered_is_refused(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODEL_REGISTRY, "Plain", lambda config: torch.nn.Linear(config.n_embd, config.vocab_size))
    with pytest.raises(ModelFormError, match="Linear has no config"):
        gather(_options(story, model_type="Plain"))


@pytest.mark.parametrize("seed", [5_000_000_000, 10**23])
def test_a_seed_may_be_any_whole_number(cleangpt: Run, story: Path, tmp_path: Path, seed: int) -> None:
    words = ("train", "--data", story, "--out", tmp_path / "out", *_CHARACTERS, "--max-steps", 2)
    assert cleangpt(*words, "--seed", seed).code == 0
    assert f"seed was {seed} and is now {seed + 1}" in cleangpt(*words, "--resume", "--seed", seed + 1).err


def test_best_weights_that_are_missing_are_one_line(cleangpt: Run, story: Path, tmp_path: Path) -> None:
    words = ("train", "--data", story, "--out", tmp_path / "out", *_CHARACTERS, "--max-steps", 1)
    assert cleangpt(*words).code == 0
    (tmp_path / "out" / "checkpoint" / "best.pt").unlink()
    ran = cleangpt(*words, "--resume")
    assert (ran.code, "best.pt is missing: put it back" in ran.err.splitlines()[-1]) == (1, True)


@pytest.mark.parametrize(
    ("full", "name"), [("torch.save", "best.pt"), ("transformers.modeling_utils.safe_save_file", "out")]
)
def test_a_full_disk_is_one_line_with_the_name_and_leaves_no_partial_file(
    cleangpt: Run, story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str, name: str
) -> None:
    def no_space(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(full, no_space)
    ran = cleangpt("train", "--data", story, "--out", tmp_path / "out", *_CHARACTERS, "--max-steps", 1)
    last = ran.err.splitlines()[-1]
    assert ran.code == 1
    assert last.startswith(f"cleangpt: error: {tmp_path / 'out'}")
    assert f"{name} could not be written (No space left on device)" in last
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_bpe_tokenizer_is_trained_on_the_text(cleangpt: Run, story: Path, tmp_path: Path) -> None:
    words = ("--vocab-size", 280, *_TINY, "--max-steps", 1, "--validation", 0, "--dtype", "bfloat16")
    ran = cleangpt("train", "--data", story, "--out", tmp_path / "out", *words)
    assert ran.code == 0, ran.err
    assert "validation" not in ran.out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "out"))


def test_the_written_model_is_the_one_with_the_least_validation_loss(
    cleangpt: Run, story: Path, tmp_path: Path
) -> None:
    # so large a rate that later weights are worse
    words = (*_CHARACTERS, "--max-steps", 12, "--evaluate-every", 1, "--lr", 3, "--warmup", 12, "--clip-norm", 0)
    ran = cleangpt("train", "--data", story, "--out", tmp_path / "out", *words)
    assert ran.code == 0, ran.err
    losses = [each["loss"] for each in json.loads((tmp_path / "out" / "history.json").read_text())["evaluations"]]
    best = losses.index(min(losses)) + 1
    assert best < 12
    assert f"(the model of step {best} of 12)" in ran.out
    kept = torch.load(tmp_path / "out" / "checkpoint" / "best.pt")["model"]
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in written.items())


def test_a_finished_directory_is_not_trained_over(cleangpt: Run, story: Path, tmp_path: Path) -> None:
    words = ("train", "--data", story, "--out", tmp_path / "out", *_CHARACTERS, "--max-steps", 1)
    assert cleangpt(*words).code == 0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    ran = cleangpt(*words)
    assert ran.code == 2
    assert "--resume" in ran.err
    assert cleangpt(*words, "--resume").code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_a_finished_training_goes_on_with_more_steps_and_with_nothing_else(
    cleangpt: Run, story: Path, tmp_path: Path
) -> None:
    words = ("train", "--data", story, "--out", tmp_path / "out", *_CHARACTERS, "--resume", "--max-steps")
    assert cleangpt(*words, 2).code == 0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    ran = cleangpt(*words, 4, "--batch-size", 8)
    assert (ran.code, "another training: batch_size was 4 and is now 8. Train as then" in ran.err) == (1, True), ran.err
    assert "max_steps was 2 and is now 1. " in cleangpt(*words, 1).err
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    ran = cleangpt(*words, 4)
    assert ran.code == 0, ran.err
    assert len(json.loads((tmp_path / "out" / "history.json").read_text())["losses"]) == 4
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != before


def test_early_stop_ends_a_training_that_learns_nothing(cleangpt: Run, story: Path, tmp_path: Path) -> None:
    words = (*_CHARACTERS, "--max-steps", 50, "--evaluate-every", 1, "--lr", 1e-30, "--patience", 2)
    ran = cleangpt("train", "--data", story, "--out", tmp_path / "out", *words)
    assert ran.code == 0, ran.err
    assert len(json.loads((tmp_path / "out" / "history.json").read_text())["losses"]) < 10


def test_a_stopped_training_keeps_its_checkpoint_and_goes_on_to_the_same_losses(
    cleangpt: Run, story: Path, tmp_path: Path
) -> None:
    def words(out: str) -> list[str]:
        more = ("--max-steps", 300, "--dropout", 0.1, "--checkpoint-seconds", 1e9)
        return [str(word) for word in ("train", "--data", story, "--out", tmp_path / out, *_CHARACTERS, *more)]

    assert cleangpt(*words("whole")).code == 0
    program = [sys.executable, "-m", "cleangpt.cli", *words("stopped")]
    # sums depend on how many threads share them
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stderr is not None
        # the bar appears with the first step
        while b"0/300" not in running.stderr.read1(4096):
            pass
        running.send_signal(signal.SIGTERM)
        out, _ = running.communicate(timeout=100)
    assert running.returncode == 130, out
    assert b"run the same command with --resume to continue" in out
    stopped = json.loads((tmp_path / "stopped" / "history.json").read_text())["losses"]
    assert len(stopped) < 300
    assert cleangpt(*words("stopped"), "--resume").code == 0
    losses = [json.loads((tmp_path / each / "history.json").read_text())["losses"] for each in ("whole", "stopped")]
    assert losses[0] == losses[1]


def test_text_shorter_than_a_block_is_refused_and_nothing_is_written(
    cleangpt: Run, story: Path, tmp_path: Path
) -> None:
    ran = cleangpt("train", "--data", story, "--out", tmp_path / "out", *_CHARACTERS, "--block-size", 5000)
    assert ran.code == 1
    assert "5001" in ran.err
    assert not (tmp_path / "out").exists()
    with pytest.raises(TextTooShortError):
        gather(_options(story, block_size=5000))


def test_an_unknown_model_is_refused_with_the_known_ones(story: Path) -> None:
    with pytest.raises(ModelUnknownError, match="Factored, FactoredALiBi, SASP, Vanilla"):
        gather(_options(story, model_type="Vanila"))


def test_fields_that_a_model_lacks_are_refused(story: Path) -> None:
    with pytest.raises(BadConfigError, match="head_dimension"):
        gather(_options(story, model_type="qwen3", model={"head_dimension": 8}))
    with pytest.raises(BadConfigError, match="head_dim"):
        gather(_options(story, model={"head_dim": 8}))
    hint = r"alibi is an option of .*Vanilla, and qwen3 does not have it; .* \[model\]"
    with pytest.raises(ModelOptionError, match=hint):
        gather(_options(story, model_type="qwen3", alibi=True))
    with pytest.raises(BadConfigError, match="causal"):
        gather(_options(story, model_type="t5"))


@pytest.mark.parametrize(
    ("model_type", "words", "fields"),
    [
        ("SASP", ["--skip_connections"], {"skip_connections": True, "output_projection": True}),
        (
            "SASP",
            ["--value-projection", "--no-output-projection"],
            {"value_projection": True, "output_projection": False},
        ),
        ("FactoredALiBi", ["--no-head-mixing"], {"head_mixing": False, "alibi": True}),
    ],
)
def test_options_of_one_architecture_reach_the_saved_model_from_flags_and_from_a_file(
    cleangpt: Run, story: Path, tmp_path: Path, model_type: str, words: list[str], fields: dict[str, bool]
) -> None:
    always = ("train", "--data", story, "--model-type", model_type, *_CHARACTERS, "--max-steps", 1)
    file = tmp_path / "options.toml"
    file.write_text("".join(f"{name} = {str(value).lower()}\n" for name, value in fields.items()))
    for number, given in enumerate((words, ["--config", file])):
        ran = cleangpt(*always, "--out", tmp_path / str(number), *given)
        assert ran.code == 0, ran.err
        config = AutoModelForCausalLM.from_pretrained(tmp_path / str(number)).config
        assert {name: getattr(config, name) for name in fields} == fields


def test_an_option_that_was_given_to_a_model_without_it_is_refused_even_at_its_default(
    cleangpt: Run, story: Path, tmp_path: Path
) -> None:
    for words in (["--skip-connections"], ["--no-skip-connections"], ["--model-type", "qwen3", "--skip-connections"]):
        ran = cleangpt("train", "--data", story, "--out", tmp_path / "out", *_CHARACTERS, *words)
        assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
        assert "skip_connections is an option of SASP, and " in ran.err
    with pytest.raises(BadConfigError, match=r"the table \[model\] has head_mixing, which the config of SASP does not"):
        gather(_options(story, model_type="SASP", model={"head_mixing": True}))
    assert gather(_options(story, model_type="SASP", model={"skip_connections": True})).model.config.skip_connections


def test_the_table_reaches_the_config(story: Path) -> None:
    assert gather(_options(story, model={"n_inner": 24})).model.config.intermediate_size == 24
    qwen = gather(_options(story, model_type="qwen3", model={"num_key_value_heads": 1, "head_dim": 8})).model.config
    assert (qwen.num_key_value_heads, qwen.head_dim, qwen.hidden_size, qwen.max_position_embeddings) == (1, 8, 16, 16)


def test_the_seed_decides_the_weights(story: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        return next(gather(_options(story, seed=seed)).model.parameters())

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_the_shipped_model_is_made_of_its_settings_file() -> None:
    options = options_from(TrainOptions, {}, _DEMO)
    materials = gather(options)
    parameters = sum(each.numel() for each in materials.model.parameters())
    assert 2 * parameters < 9_000_000
    shipped = json.loads((_DEMO.parent / "manifest.json").read_text())["config"]
    found = materials.model.config.to_dict()
    differing = {name for name, value in shipped.items() if found.get(name) != value}
    assert differing <= {"architectures", "dtype", "transformers_version"}
    tokenizer = json.loads((_DEMO.parent / "tokenizer.json").read_text())
    assert materials.tokenizer.vocab_size == len(tokenizer["model"]["vocab"])
    assert materials.questions
    assert materials.text.validation is None
