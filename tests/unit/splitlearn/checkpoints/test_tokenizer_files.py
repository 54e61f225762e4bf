"""One list of files for convert, downloads and the client service."""

import asyncio
import json
from pathlib import Path, PurePosixPath

import pytest
from transformers import PreTrainedModel
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.tokenizer_files import TOKENIZER_FILES, VOCABULARY_FILES, has_vocabulary
from splitlearn_client.tokenizer import ChatTokenizer
from support.tiny_models import save_checkpoint, tiny_config


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(PurePosixPath(name).match(pattern) for pattern in patterns)


def names_of(tokenizer: str) -> dict[str, str]:
    kind = tokenizer_class_from_name(tokenizer)
    try:
        return dict(getattr(kind, "vocab_files_names", {}))
    except ImportError:
        # wants a package that is not installed, and would name files that others name too
        return {}


def test_every_file_that_a_tokenizer_of_transformers_names_is_in_the_list() -> None:
    found = {item for name in set(TOKENIZER_MAPPING_NAMES.values()) if name for item in names_of(name).items()}
    assert ("vocab_file", "spiece.model") in found
    assert [item for item in found if not matches(item[1], TOKENIZER_FILES)] == []
    vocabularies = [name for field, name in found if field in ("vocab_file", "tokenizer_file", "spm_file")]
    assert [name for name in vocabularies if not matches(name, VOCABULARY_FILES)] == []


@pytest.mark.parametrize(
    "name", ["tekken.json", "tiktoken.model", "tokenizer.model.v3", "qwen.tiktoken", "source.spm", "vocab-src.json"]
)
def test_vocabularies_that_no_class_names_are_in_it_too(name: str) -> None:
    assert has_vocabulary([name])


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors", "merges.txt", "a.jinja"])
def test_other_files_make_no_tokenizer(name: str) -> None:
    assert not has_vocabulary([name])


def test_all_of_them_go_along(tmp_path: Path, tiny_llama: PreTrainedModel) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", tiny_llama)
    texts = ["vocab.txt", "spiece.model", "tiktoken.model", "merges.txt", "chat_template.jinja"]
    objects = ["tekken.json", "chat_template.json", "generation_config.json", "added_tokens.json"]
    objects += ["1_Pooling/config.json", "config_sentence_transformers.json"]
    templates = ["additional_chat_templates/rag.jinja", "additional_chat_templates/tool_use.jinja"]
    for folder in ("additional_chat_templates", "1_Pooling"):
        (checkpoint / folder).mkdir()
    for name in (*texts, *templates):
        (checkpoint / name).write_text(f"<s> {name}")
    for name in objects:
        (checkpoint / name).write_text("{}")
    (checkpoint / "modules.json").write_text("[]")
    (checkpoint / "secret.txt").write_text("not a tokenizer's")
    prepare(str(checkpoint)).write(tmp_path / "out")
    for name in (*texts, *objects, *templates, "modules.json"):
        assert (tmp_path / "out" / name).read_bytes() == (checkpoint / name).read_bytes(), name
    assert not (tmp_path / "out" / "secret.txt").exists()


def test_a_model_whose_vocabulary_is_words_is_converted_and_its_text_read(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "##es"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    served = ChatTokenizer(tmp_path, tiny_config("llama"))
    assert served.decode(asyncio.run(served.tokenize("the foxes"))) == "the foxes"
    served.close()
