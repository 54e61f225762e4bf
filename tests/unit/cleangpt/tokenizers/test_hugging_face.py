import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Tokenizer

from cleangpt.errors import TokenizerFilesError
from cleangpt.tokenizers import create_tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer built and saved as GPT-2's is, of fewer merges."""
    folder = tmp_path_factory.mktemp("gpt2")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, "he", "ll", "hell", "hello", "<|endoftext|>"])}
    backend = Tokenizer(models.BPE(vocabulary, [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    GPT2Tokenizer(tokenizer_object=backend).save_pretrained(folder)
    return folder


def test_gpt2_comes_from_a_folder(gpt2_folder: Path) -> None:
    tokenizer = create_tokenizer("gpt2", folder=gpt2_folder, context=128)
    assert tokenizer.decode(tokenizer.encode("hello, world!")) == "hello, world!"
    assert tokenizer.encode("hello") == [259]
    assert tokenizer.end_id == 260
    assert tokenizer.vocab_size == 261
    assert tokenizer.fast.model_max_length == 128


def test_gpt2_is_looked_for_in_the_cache_and_missed_with_what_to_do(gpt2_folder: Path, tmp_path: Path) -> None:
    program = (
        "from cleangpt.errors import TokenizerFilesError\n"
        "from cleangpt.tokenizers import create_tokenizer\n"
        "try: print(create_tokenizer('gpt2').encode('hello'))\n"
        "except TokenizerFilesError as error: print(error)"
    )

    def told() -> str:
        environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert "hf download openai-community/gpt2" in told()
    repository = tmp_path / "hub" / "models--openai-community--gpt2"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("0" * 40)).symlink_to(gpt2_folder)
    assert told() == "[259]"


def test_a_tokenizer_is_found_beside_a_model_of_a_type_that_nobody_knows(gpt2_folder: Path, tmp_path: Path) -> None:
    load_tokenizer(gpt2_folder).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "made_up", "vocab_size": 261}))
    assert create_tokenizer(str(tmp_path)).encode("hello") == [259]


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerFilesError, match="not a folder"):
        create_tokenizer("hugging_face", folder=tmp_path / "nowhere")


def test_a_folder_without_a_tokenizer_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(TokenizerFilesError, match=r"expected tokenizer\.json"):
        create_tokenizer(str(tmp_path))


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(TokenizerFilesError, match=r"expected tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_broken_file_is_refused_as_such(gpt2_folder: Path, tmp_path: Path) -> None:
    load_tokenizer(gpt2_folder).save_pretrained(tmp_path)
    saved = tmp_path / "tokenizer.json"
    saved.write_text(saved.read_text()[:1000])
    with pytest.raises(TokenizerFilesError, match="no tokenizer that can be read"):
        load_tokenizer(tmp_path)


def test_the_kind_of_saved_tokenizers_needs_a_folder() -> None:
    with pytest.raises(TokenizerFilesError, match="folder=DIR"):
        create_tokenizer("hugging_face")
