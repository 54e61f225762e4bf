import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cleangpt.config import GPTConfig
from cleangpt.data.text_record import TextRecord
from cleangpt.model import get_model
from cleangpt.model.shadow_folder import load_shadow
from cleangpt.tokenizers import create_tokenizer

Run = Callable[..., Any]


@pytest.fixture
def teacher(tmp_path: Path, story: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = create_tokenizer("character", texts=[story.read_text()])
    config = GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=tokenizer.vocab_size, block_size=32)
    get_model("Vanilla", config=config).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def _documented(teacher: Path, story: Path, out: Path) -> list[object]:
    words = ["distill", "--teacher", teacher, "--student-model-type", "Factored"]
    words += ["--student-n-embd", 8, "--student-n-head", 2, "--data", story, "--column", "story"]
    return [*words, "--epochs-per-block", 1, "--batch-size", 32, "--out", out]


def test_the_documented_flags_give_a_student_and_the_next_commands_work(
    cleangpt: Run, teacher: Path, story: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = cleangpt(*_documented(teacher, story, out))
    assert ran.code == 0, ran.err
    student = AutoModelForCausalLM.from_pretrained(out / "student")
    assert (student.config.model_type, student.config.hidden_size) == ("cleangpt_factored", 8)
    # what is not given is the teacher's
    assert (student.config.num_hidden_layers, student.config.max_position_embeddings) == (2, 32)
    assert (out / "curves.png").exists()
    assert (out / "history.json").exists()
    [_, evaluating, converting] = ran.out.splitlines()
    words = shlex.split(evaluating.removeprefix("next:"))
    assert cleangpt(*words[1:], "--column", "story", "--max-batches", 1).code == 0
    assert shlex.split(converting)[:3] == ["splitlearn", "convert", str(out / "student")]


def test_the_same_command_again_takes_what_was_finished(
    cleangpt: Run, teacher: Path, story: Path, tmp_path: Path
) -> None:
    words = _documented(teacher, story, tmp_path / "out")
    first, again = cleangpt(*words), cleangpt(*words)
    assert first.out == again.out
    other = cleangpt(*words, "--seed", 1)
    assert (other.code, other.err.count("cleangpt: error")) == (1, 1)


def test_another_teacher_in_the_same_folder_is_refused_by_name(
    cleangpt: Run, teacher: Path, story: Path, tmp_path: Path
) -> None:
    words = _documented(teacher, story, tmp_path / "out")
    assert cleangpt(*words).code == 0
    model = AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    model.save_pretrained(teacher)
    other = cleangpt(*words)
    assert other.code == 1
    assert "was written by another training: other teacher's weights." in other.err


def test_what_is_held_out_is_neither_read_nor_measured_as_if_it_were(
    cleangpt: Run, teacher: Path, story: Path, tmp_path: Path
) -> None:
    out, words = tmp_path / "out", _documented(teacher, story, tmp_path / "out")
    ran = cleangpt(*words, "--validation", 0.2)
    assert ran.code == 0, ran.err
    record = TextRecord.read(out / "student")
    assert record is not None
    assert record.held_out == pytest.approx(0.2 * record.total, abs=1)
    # nothing but the end of the text has changed, and the student is the same
    content = story.read_text()
    kept = round(0.8 * len(content)) + 2
    story.write_text(content[:kept] + content[kept:][::-1])
    assert cleangpt(*_documented(teacher, story, tmp_path / "other"), "--validation", 0.2).code == 0
    weights = [(folder / "student" / "model.safetensors").read_bytes() for folder in (out, tmp_path / "other")]
    assert weights[0] == weights[1]
    story.write_text(content)
    evaluating = ["evaluate", out / "student", "--data", story, "--column", "story", "--max-batches", 1]
    held_out = cleangpt(*evaluating, "--validation", 0.2)
    assert held_out.code == 0
    assert "note:" not in held_out.out
    assert "note: the model was trained on this text: the last" in cleangpt(*evaluating).out
    refused = cleangpt(*evaluating, "--validation", 0.5)
    assert refused.code == 2
    assert "the model was trained on all but the last" in refused.err


def _history(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "history.json").read_text())
    return found


def test_what_is_held_out_is_what_every_stage_is_validated_on(
    cleangpt: Run, teacher: Path, story: Path, tmp_path: Path
) -> None:
    words = _documented(teacher, story, tmp_path / "out")
    ran = cleangpt(*words, "--validation", 0.2, "--evaluate-every", 2)
    assert ran.code == 0, ran.err
    found = _history(tmp_path / "out")
    for stage in (*found["blocks"], found["head"]):
        steps = [each["step"] for each in stage["evaluations"]]
        assert steps == sorted({*range(2, len(stage["losses"]), 2), len(stage["losses"])})
    shown = f"{found['head']['losses'][-1]:.4f} (validation {found['head']['evaluations'][-1]['loss']:.4f})"
    assert ran.out.splitlines()[0].endswith(shown)
    assert f"validation {found['head']['evaluations'][-1]['loss']:.4f}" in ran.err
    # the text that is held out counts as what the checkpoints were made from
    story.write_text(story.read_text()[:-9] + "elephant.")
    assert "other validation text" in cleangpt(*words, "--validation", 0.2, "--evaluate-every", 2).err
    ran = cleangpt(*_documented(teacher, story, tmp_path / "none"), "--validation", 0)
    assert "validation" not in ran.out
    assert _history(tmp_path / "none")["head"]["evaluations"] == []


def test_the_student_has_the_dropout_and_the_biases_that_were_asked_for(
    cleangpt: Run, teacher: Path, story: Path, tmp_path: Path
) -> None:
    more = ("--student-dropout", 0.25, "--no-student-bias")
    ran = cleangpt(*_documented(teacher, story, tmp_path / "out"), *more)
    assert ran.code == 0, ran.err
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "student")
    assert (student.config.dropout, student.config.bias) == (0.25, False)
    assert not [name for name, _ in student.named_parameters() if name.endswith("bias")]


@pytest.mark.parametrize("spelled", ["command line", "file"])
def test_blocks_and_head_have_rates_and_settings_of_their_own(
    cleangpt: Run, teacher: Path, story: Path, tmp_path: Path, spelled: str
) -> None:
    words = [*_documented(teacher, story, tmp_path / "out"), "--epochs-per-block", 4, "--lm-head-epochs", 4]
    if spelled == "file":
        file = tmp_path / "options.toml"
        file.write_text("lr_per_block = [1e-3, 5e-4]\nlm_head_lr = 2e-3\nlm_head_clip_norm = 0\n")
        words += ["--config", file]
    else:
        words += ["--lr-per-block", "1e-3,5e-4", "--lm-head-lr", 2e-3, "--lm-head-max-grad-norm", 0]
    ran = cleangpt(*words)
    assert ran.code == 0, ran.err
    found = _history(tmp_path / "out")
    assert [max(each["rates"]) for each in (*found["blocks"], found["head"])] == [
        pytest.approx(rate) for rate in (1e-3, 5e-4, 2e-3)
    ]
    described = {
        stage: torch.load(tmp_path / "out" / "checkpoints" / stage / "checkpoint.pt")["described"]
        for stage in ("block_00000", "head")
    }
    assert [described[stage]["clip_norm"] for stage in described] == ["1.0", "None"]


def test_a_student_that_starts_as_its_teacher_has_nothing_to_learn(
    cleangpt: Run, teacher: Path, story: Path, tmp_path: Path
) -> None:
    words = ["distill", "--teacher", teacher, "--data", story, "--out", tmp_path / "out", "--lr-per-block", 1e-9]
    ran = cleangpt(*words, "--initialize-student-from-teacher", "--initialize-head-from-teacher")
    assert ran.code == 0, ran.err
    found = _history(tmp_path / "out")
    assert max(stage["losses"][0] for stage in (*found["blocks"], found["head"])) < 1e-4
    narrow = cleangpt(*words, "--student-n-embd", 8, "--initialize-head-from-teacher", "--out", tmp_path / "never")
    assert (narrow.code, narrow.err.count("\n")) == (1, 1)
    assert "of shape [8] where the teacher has model.norm.weight of shape [16]" in narrow.err
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["SASP", "--student_skip_connections"], {"skip_connections": True, "value_projection": False}),
        (
            ["SASP", "--student-value-projection", "--no-student-output-projection"],
            {"value_projection": True, "output_projection": False},
        ),
        (["Factored", "--no-student-head-mixing"], {"head_mixing": False}),
    ],
)
def test_a_student_has_the_options_that_its_flags_say(
    cleangpt: Run, teacher: Path, story: Path, tmp_path: Path, words: list[str], fields: dict[str, bool]
) -> None:
    ran = cleangpt(*_documented(teacher, story, tmp_path / "out"), "--student-model-type", *words)
    assert ran.code == 0, ran.err
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "student").config
    assert {name: getattr(config, name) for name in fields} == fields


def test_a_split_of_a_dataset_is_read_and_the_next_command_measures_it(
    cleangpt: Run, teacher: Path, story: Path, tmp_path: Path
) -> None:
    from datasets import Dataset, DatasetDict

    rows = {name: Dataset.from_dict({"story": [story.read_text()] * n}) for name, n in (("train", 2), ("test", 1))}
    DatasetDict(rows).save_to_disk(str(tmp_path / "stories"))
    ran = cleangpt(*_documented(teacher, tmp_path / "stories", tmp_path / "out"), "--split", "test")
    assert ran.code == 0, ran.err
    record = TextRecord.read(tmp_path / "out" / "student")
    assert record is not None
    assert record.total == len(story.read_text()) + 1
    words = shlex.split(ran.out.splitlines()[1].removeprefix("next:"))
    measured = cleangpt(*words[1:], "--max-batches", 1)
    assert measured.code == 0, measured.err
    # the share that was held out of the same text
    assert "not known" not in measured.out


def test_the_whole_student_can_be_fitted_at_once(cleangpt: Run, teacher: Path, story: Path, tmp_path: Path) -> None:
    ran = cleangpt(*_documented(teacher, story, tmp_path / "out"), "--end-to-end-epochs", 1)
    assert ran.code == 0, ran.err
    assert "losses: end to end" in ran.out


def test_a_shadow_is_written_for_the_weights_at_hand(
    cleangpt: Run, tiny_weights: Path, story: Path, tmp_path: Path
) -> None:
    words = [
        "distill",
        "--shadow",
        "--weights",
        tiny_weights,
        "--data",
        story,
        "--out",
        tmp_path / "out",
    ]
    words += ["--student-n-embd", 16, "--student-n-layer", 2, "--student-parameters", 20_000, "--block-size", 32]
    ran = cleangpt(*words)
    assert ran.code == 0, ran.err
    shadow = load_shadow(tmp_path / "out" / "shadow")
    assert (shadow.config.width, shadow.config.num_hidden_layers) == (16, 2)
    assert shadow.n_parameters <= 20_000
    assert "of the trunk's" in ran.out
    # what was held out of the text is measured with the trunk's answers
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert all(len(stage["evaluations"]) == 1 for stage in history.values())
    [_, evaluating] = ran.out.splitlines()
    assert cleangpt(*shlex.split(evaluating.removeprefix("next:"))[1:], "--max-batches", 1).code == 0


def test_an_early_exit_is_a_shadow_without_layers_and_can_be_evaluated(
    cleangpt: Run, tiny_weights: Path, story: Path, tmp_path: Path
) -> None:
    words = ["distill", "--shadow", "--weights", tiny_weights, "--data", story, "--block-size", 32]
    ran = cleangpt(*words, "--student-n-layer", 0, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    shadow = load_shadow(tmp_path / "out" / "shadow")
    assert shadow.n_parameters == 2 * 64 * 64 + 64 + 64
    assert list(json.loads((tmp_path / "out" / "history.json").read_text())) == ["end_to_end"]
    [_, evaluating] = ran.out.splitlines()
    words = [*shlex.split(evaluating.removeprefix("next:"))[1:], "--max-batches", 1]
    assert cleangpt(*words, "--num-comparison-prompts", 1).code == 0


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ([], 2, "--teacher"),
        (["--teacher", "TEACHER", "--student-n-layer", 0], 2, "--student-n-layer has to be 1 or more"),
        (["--shadow", "--weights", "WEIGHTS", "--student-n-layer", -1], 2, "has to be 0 or more, found -1"),
        (
            ["--shadow", "--weights", "WEIGHTS", "--student-n-layer", 0, "--lm-head-epochs", 0],
            2,
            "give --lm-head-epochs at least 1",
        ),
        (
            ["--shadow", "--weights", "WEIGHTS", "--student-n-layer", 0, "--student-parameters", 9_000],
            1,
            "give its width",
        ),
        (["--shadow"], 2, "--shadow needs --weights"),
        (["--teacher", "TEACHER", "--trunk", "x:1"], 2, "--trunk is for --shadow"),
        (["--shadow", "--weights", "WEIGHTS", "--device", "cpu"], 2, "--device does not go with --shadow"),
        (["--shadow", "--weights", "WEIGHTS", "--student-n-head", 5], 2, "multiple of --student-n-head"),
        (["--shadow", "--weights", "WEIGHTS", "--student-parameters", 10], 1, "10 are allowed"),
        (["--teacher", "TEACHER", "--student-model-type", "Small"], 1, "no model called 'Small'"),
        (["--teacher", "TEACHER", "--student-skip-connections"], 1, "an option of SASP, and Vanilla does not have it"),
        (["--shadow", "--weights", "WEIGHTS", "--no-student-head-mixing"], 2, "--student-head-mixing does not go with"),
        (["--teacher", "TEACHER", "--student-n-head", 3], 1, "multiple of n_head"),
        (["--teacher", "TEACHER", "--epochs-per-block", 0], 2, "nothing would be fitted"),
        (["--teacher", "TEACHER", "--block-size", 64], 2, "longer than the 32 positions"),
        (["--teacher", "TEACHER", "--lm-head-epochs", 0], 2, "--no-train-lm-head"),
        (["--teacher", "nowhere"], 1, "nowhere"),
        (["--teacher", "TEACHER", "--lr-per-block", "1e-3,2e-3,3e-3"], 1, "3 rates for 2 blocks"),
        (["--teacher", "TEACHER", "--lr-per-block", "1e-3,0"], 2, "--lr-per-block has to be above 0, found 0.0"),
        (["--teacher", "TEACHER", "--lr-per-block", "1e-3,2e-3", "--end-to-end-epochs", 1], 2, "one rate"),
        (["--teacher", "TEACHER", "--lm-head-lr", 1, "--end-to-end-epochs", 1], 2, "which is left out here"),
        (["--teacher", "TEACHER", "--lm-head-lr", 1, "--no-train-lm-head"], 2, "--lm-head-lr is for the fit of the"),
        (["--teacher", "TEACHER", "--student-dropout", 1], 1, "dropout must be"),
        (["--teacher", "TEACHER", "--student-model-type", "SASP", "--initialize-student-from-teacher"], 1, "of type"),
        (["--teacher", "TEACHER", "--lm-head-clip-norm", -1], 2, "--lm-head-clip-norm cannot be below 0"),
        (["--teacher", "TEACHER", "--evaluate-every", 0], 2, "--evaluate-every has to be above 0"),
        (["--shadow", "--weights", "WEIGHTS", "--no-student-bias"], 2, "--student-bias does not go with --shadow"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(
    cleangpt: Run,
    teacher: Path,
    tiny_weights: Path,
    story: Path,
    tmp_path: Path,
    flags: list[object],
    code: int,
    message: str,
) -> None:
    places = {"TEACHER": teacher, "WEIGHTS": tiny_weights}
    out = tmp_path / "out"
    words = [places.get(str(flag), flag) for flag in flags]
    ran = cleangpt("distill", "--data", story, "--out", out, *words)
    assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
    assert message in ran.err
    assert not out.exists()
