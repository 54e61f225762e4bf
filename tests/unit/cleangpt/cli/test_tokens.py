import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from cleangpt.cli.__main__ import main
from cleangpt.tokenizers import create_tokenizer

_TEXTS = ("the cat sat on the mat\n", "the dog sat on the log\n", "a hat for the cat\n")


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for index, text in enumerate(_TEXTS):
        (folder / f"{index}.txt").write_text(text)
    return folder


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A model of cleangpt's neighbours whose tokenizer knows far more words than the texts."""
    folder = tmp_path / "model"
    tokenizer = create_tokenizer("bpe", texts=[*_TEXTS, "wholly different words: shutil.copyfile"], vocab_size=290)
    tokenizer.save_pretrained(folder)
    config = GPT2Config(vocab_size=290, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_a_table_is_printed_and_numbers_are_written(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = tmp_path / "out" / "numbers.json"
    flags = ["--data", str(text_folder), "--tokenizer-type", "character", "--json", str(numbers)]
    assert main(["tokens", *flags]) == 0
    found = json.loads(numbers.read_text())
    assert (found["samples"], found["words"], found["tokens"]) == (3, 17, sum(map(len, _TEXTS)))
    out = capsys.readouterr().out
    assert "tokens per word" in out
    assert str(numbers) in out


def test_the_flags_of_the_document_read_some_samples_and_draw_a_plot_here(
    text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        main(["tokens", "--dataset", str(text_folder), "--tokenizer-type", "bpe", "--max-samples", "2", "--plot"]) == 0
    )
    assert (tmp_path / "tokens.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.splitlines()[0].split() == ["samples", "2"]


def test_of_conversations_the_contents_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    flags = ["--dataset-name", str(tmp_path), "--dataset-config", "chats.jsonl", "--column", "messages"]
    assert main(["tokens", *flags, "--tokenizer-type", "character", "--json", str(tmp_path / "n.json")]) == 0
    assert json.loads((tmp_path / "n.json").read_text())["words"] == 3


def test_a_plot_goes_to_the_file_named(text_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "plots" / "usage.svg"
    assert main(["tokens", "--data", str(text_folder), "--tokenizer-type", "character", "--plot", str(file)]) == 0
    assert file.exists()


def test_a_pruned_tokenizer_is_written_with_its_model(
    text_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "pruned"
    flags = ["--data", str(text_folder), "--tokenizer-type", str(model_folder), "--prune", str(target)]
    assert main(["tokens", *flags]) == 0
    assert "parameters" in capsys.readouterr().out.splitlines()[-1]
    whole, pruned = (AutoTokenizer.from_pretrained(each) for each in (model_folder, target))
    assert len(pruned) < len(whole)
    model, cut = (AutoModelForCausalLM.from_pretrained(each).eval() for each in (model_folder, target))
    assert cut.config.vocab_size == len(pruned)
    with torch.inference_mode():
        before_BT, after_BT = (torch.tensor([each.encode(_TEXTS[0])]) for each in (whole, pruned))
        hidden_BTD = model.base_model(before_BT).last_hidden_state
        torch.testing.assert_close(cut.base_model(after_BT).last_hidden_state, hidden_BTD)


def test_a_folder_with_files_is_not_pruned_into(
    text_folder: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((each.name, each.stat().st_size) for each in model_folder.iterdir())
    flags = ["--data", str(text_folder), "--tokenizer-type", str(model_folder), "--prune", str(model_folder)]
    assert main(["tokens", *flags]) == 2
    assert "name a new folder" in capsys.readouterr().err
    assert sorted((each.name, each.stat().st_size) for each in model_folder.iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--data", "nowhere"], 1, "not a text source"),
        (["--data", "TEXTS", "--tokenizer-type", "bep"], 1, "'bep' is not a tokenizer"),
        (["--data", "TEXTS", "plot.png"], 2, "write --plot plot.png"),
        ([], 2, "--data"),
    ],
)
def test_mistakes_end_in_one_line(
    text_folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, message: str
) -> None:
    assert main(["tokens", *(str(text_folder) if flag == "TEXTS" else flag for flag in flags)]) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
