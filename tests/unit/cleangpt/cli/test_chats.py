"""Conversations from files: trained on, distilled on, measured and continued."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from cleangpt.data.text_record import TextRecord

Run = Callable[..., Any]

_TINY = ("--n-layer", 2, "--n-head", 2, "--n-embd", 16, "--block-size", 48, "--warmup", 2)
_SYSTEM = {"role": "system", "content": "Be brief."}


def _messages(number: int) -> list[dict[str, str]]:
    """Of two answers; every second conversation has a system message."""
    turns = [f"{number} and {number}", f"{2 * number}", "sure?", "yes"]
    said = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, turns, strict=True)]
    return [*([_SYSTEM] if number % 2 else []), *said]


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """The same forty conversations as JSON lines, as Parquet and as a dataset on disk."""
    from datasets import Dataset

    records = [{"id": number, "messages": _messages(number)} for number in range(40)]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "chats.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))
    rows = Dataset.from_list(records)
    rows.to_parquet(str(folder / "chats.parquet"))
    rows.save_to_disk(str(folder / "chats"))
    return folder


def _trained(cleangpt: Run, data: Path, out: Path, *more: object) -> Path:
    words = ("--column", "messages", "--tokenizer-type", "character", *_TINY, "--max-steps", 3)
    ran = cleangpt("train", "--data", data, "--out", out, *words, *more)
    assert ran.code == 0, ran.err
    return out


def test_every_kind_of_file_gives_the_same_model(cleangpt: Run, chats: Path, tmp_path: Path) -> None:
    weights = [
        (_trained(cleangpt, chats / name, tmp_path / name) / "model.safetensors").read_bytes()
        for name in ("chats.jsonl", "chats.parquet", "chats")
    ]
    assert weights[0] == weights[1] == weights[2]


def test_a_model_learns_what_the_assistant_answers_and_is_asked_by_chat(cleangpt: Run, tmp_path: Path) -> None:
    answers = {"left": "Go on.", "right": "Stop."}
    chats = [
        [_SYSTEM, {"role": "user", "content": asked}, {"role": "assistant", "content": answers[asked]}]
        for asked in answers
    ]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"messages": each[skip:]}) + "\n" for each in chats for skip in (0, 1))
    )
    more = ("--max-steps", 120, "--lr", "2e-2", "--validation", 0)
    out = _trained(cleangpt, tmp_path / "a.jsonl", tmp_path / "out", *more)
    for asked, answer in answers.items():
        # ends by itself, and does not go on with a question
        ran = cleangpt("generate", out, "--prompt", asked, "--chat", "--max-tokens", 20)
        assert ran.out.strip() == answer
    text = AutoTokenizer.from_pretrained(out).apply_chat_template(chats[0][:2], tokenize=False)
    assert text == "<|system|> Be brief.<|end|><|user|> left<|end|>"


def test_the_last_conversations_are_held_out_and_can_be_measured(cleangpt: Run, chats: Path, tmp_path: Path) -> None:
    out = _trained(cleangpt, chats / "chats.jsonl", tmp_path / "out", "--validation", 0.1)
    assert len(json.loads((out / "history.json").read_text())["evaluations"]) == 1
    record = TextRecord.read(out)
    assert record is not None
    assert (record.total, record.held_out, record.unit) == (40, 4, "conversations")
    words = ("evaluate", out, "--data", chats / "chats.jsonl", "--column", "messages")
    ran = cleangpt(*words, "--validation", 0.1, "--generate-comparisons", "--num-comparison-prompts", 2)
    assert ran.code == 0, ran.err
    assert ran.out.count("prompt: ") == 2
    refused = cleangpt(*words, "--validation", 0.2)
    assert (refused.code, "trained on all but the last 10.00%" in refused.err) == (2, True)
    # what was held out makes no difference to what is learned
    file = chats / "chats.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:36], *lines[:4]]))
    other = _trained(cleangpt, file, tmp_path / "other", "--validation", 0.1, "--tokenizer-type", out)
    again = _trained(
        cleangpt, chats / "chats.parquet", tmp_path / "again", "--validation", 0.1, "--tokenizer-type", out
    )
    assert (other / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


def test_a_training_on_chats_resumes_where_it_was(cleangpt: Run, chats: Path, tmp_path: Path) -> None:
    file = chats / "chats.jsonl"
    _trained(cleangpt, file, tmp_path / "whole", "--max-steps", 6, "--schedule", "wsd", "--decay", 0)
    for steps in (3, 6):
        more = ("--max-steps", steps, "--schedule", "wsd", "--decay", 0, "--resume")
        _trained(cleangpt, file, tmp_path / "parts", *more)
    losses = [json.loads((tmp_path / each / "history.json").read_text())["losses"] for each in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_a_student_is_distilled_on_chats(cleangpt: Run, chats: Path, tmp_path: Path) -> None:
    teacher = _trained(cleangpt, chats / "chats.jsonl", tmp_path / "teacher")
    words = ("distill", "--teacher", teacher, "--data", chats / "chats.parquet", "--column", "messages")
    ran = cleangpt(*words, "--student-n-embd", 8, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    record = TextRecord.read(tmp_path / "out" / "student")
    assert record is not None
    assert record.held_out == 2
    assert "--column messages --validation 0.05" in ran.out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "line 41 holds no answer of the assistant"),
        ({"messages": "a text"}, "line 41 holds text, and before it"),
        ({"conversation": []}, "line 41 has no column 'messages', it has conversation"),
    ],
)
def test_a_line_that_is_no_conversation_is_one_line_with_its_number(
    cleangpt: Run, chats: Path, tmp_path: Path, line: dict[str, object], message: str
) -> None:
    with (chats / "chats.jsonl").open("a") as file:
        file.write(json.dumps(line))
    words = ("--data", chats / "chats.jsonl", "--column", "messages", "--out", tmp_path / "out", *_TINY)
    ran = cleangpt("train", *words)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert message in ran.err
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_a_chat_template_is_refused(cleangpt: Run, chats: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text of a few words " * 20)
    words = ("--tokenizer-type", "character", *_TINY, "--max-steps", 1, "--block-size", 16)
    assert cleangpt("train", "--data", tmp_path / "a.txt", "--out", tmp_path / "of_text", *words).code == 0
    words = ("--data", chats / "chats.jsonl", "--column", "messages", "--init-from", tmp_path / "of_text")
    ran = cleangpt("train", *words, "--out", tmp_path / "out", "--max-steps", 1)
    assert (ran.code, "need a tokenizer with a chat template" in ran.err) == (1, True), ran.err


def test_a_training_is_recorded_with_mlflow(cleangpt: Run, chats: Path, tmp_path: Path, mlflow_database: Path) -> None:
    from mlflow import MlflowClient

    (tmp_path / "out").mkdir()
    shutil.copy(mlflow_database, tmp_path / "out")
    out = _trained(cleangpt, chats / "chats.jsonl", tmp_path / "out", "--mlflow")
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    [experiment] = [each for each in client.search_experiments() if each.name == "cleangpt"]
    [run] = client.search_runs([experiment.experiment_id])
    losses = sorted((each.step, each.value) for each in client.get_metric_history(run.info.run_id, "loss"))
    assert losses == list(enumerate(json.loads((out / "history.json").read_text())["losses"], 1))
    assert run.info.status == "FINISHED"
