import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from cleangpt.config import GPTConfig
from cleangpt.distillation.evaluation.evaluate_distilled_model import main, refuse_other_type
from cleangpt.errors import ModelUnknownError, UsageError
from cleangpt.model import get_model
from cleangpt.tokenizers import create_tokenizer

STORY = "A cat sat on a mat. The dog saw it. " * 20


def _saved(folder: Path, kind: str, n_layer: int) -> Path:
    torch.manual_seed(n_layer)
    tokenizer = create_tokenizer("character", texts=[STORY])
    config = GPTConfig(n_layer=n_layer, n_head=2, n_embd=8, vocab_size=tokenizer.vocab_size, block_size=16)
    model: PreTrainedModel = get_model(kind, config=config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return _saved(tmp_path / "student", "Factored", 1)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "20231101.en.txt").write_text(STORY)
    return tmp_path / "texts"


def test_the_documented_flags_measure_a_student_beside_its_teacher(
    student: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = _saved(tmp_path / "teacher", "Vanilla", 2)
    numbers, plot = tmp_path / "numbers.json", tmp_path / "plot.png"
    flags = ["--model_path", str(student), "--model_type", "Factored", "--teacher_model_name", str(teacher)]
    flags += ["--dataset", str(dataset), "--dataset_config", "20231101.en.txt", "--generate_comparisons"]
    main([*flags, "--json", str(numbers), "--plot", str(plot), "--batch_size", "4"])
    out = capsys.readouterr().out
    assert "top-1 agreement with the teacher" in out
    assert "prompt: A cat sa" in out
    found = json.loads(numbers.read_text())
    assert found["text"].endswith("20231101.en.txt")
    assert len(found["comparisons"]) == 5
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_flags_of_the_command_itself_do_the_same(
    student: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model_path", str(student), "--dataset_name", str(dataset), "--dataset_config_name", "20231101.en.txt"]
    flags += ["--generate_comparisons", "--num_comparison_prompts", "2", "--max_new_tokens", "3", "--device", "cpu"]
    main([*flags, "--output_dir", str(tmp_path / "results"), "--dataset_split", "train"])
    found = json.loads((tmp_path / "results" / "report.json").read_text())
    assert len(found["comparisons"]) == 2
    # one token of this tokenizer is a character
    assert all(len(each["student"]) <= 3 for each in found["comparisons"])
    assert (tmp_path / "results" / "report.png").exists()
    assert "numbers: " in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--num_comparison_prompts", "--max_samples", "--batch_size", "--max_new_tokens"])
def test_a_number_below_one_is_refused(
    student: Path, dataset: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--model_path", str(student), "--dataset", str(dataset), flag, "0"])
    assert ended.value.code == 2
    assert "expected 1 or more, found 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--model_type", "Vanilla"], 2, "cleangpt_factored, which is not Vanilla"),
        (["--model_type", "FactoredALiBi"], 2, "which is not FactoredALiBi"),
        (["--model_type", "Facored"], 1, "no model called 'Facored'"),
        (["--dataset_config", "de"], 2, "de does not exist"),
        (["--teacher_model_name", "nowhere"], 1, "nowhere"),
    ],
)
def test_mistakes_end_in_one_line(
    student: Path, dataset: Path, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--model_path", str(student), "--dataset", str(dataset), *flags])
    assert ended.value.code == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_alibi_is_part_of_the_type(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "alibi", "FactoredALiBi", 1)
    refuse_other_type(folder, "FactoredALiBi")
    with pytest.raises(UsageError, match="with alibi"):
        refuse_other_type(folder, "Factored")
    with pytest.raises(ModelUnknownError):
        refuse_other_type(folder, "Nothing")
