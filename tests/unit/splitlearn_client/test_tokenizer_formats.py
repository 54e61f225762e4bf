"""Tokenizers that come as a vocabulary alone, as many checkpoints bring them."""

import base64
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import PreTrainedModel

from splitlearn.checkpoints.convert import prepare
from splitlearn_client.errors import BadModelFiles
from splitlearn_client.tokenizer import ChatTokenizer
from support.tiny_models import save_checkpoint, tiny_config

TEXT = "the quick brown fox jumps over the lazy dog"


def trained(folder: Path, kind: str) -> bytes:
    """A small model of sentencepiece."""
    (folder / "text.txt").write_text("\n".join(f"{TEXT} number {n}" for n in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / kind), vocab_size=60, model_type=kind, minloglevel=2
    )
    return (folder / f"{kind}.model").read_bytes()


@pytest.mark.parametrize(
    ("kind", "file", "tokenizer_class"),
    [
        ("unigram", "spiece.model", "T5Tokenizer"),
        ("unigram", "spiece.model", "XLNetTokenizer"),
        ("bpe", "tokenizer.model", "LlamaTokenizer"),
        ("bpe", "tokenizer.model", None),
    ],
)
async def test_a_model_of_sentencepiece_is_read(
    tmp_path: Path, kind: str, file: str, tokenizer_class: str | None
) -> None:
    (folder := tmp_path / "weights").mkdir()
    (folder / file).write_bytes(trained(tmp_path, kind))
    if tokenizer_class is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class}))
    served = ChatTokenizer(folder, tiny_config("llama"))
    try:
        assert served.decode(await served.tokenize("the quick fox")) == "the quick fox"
    finally:
        served.close()


async def test_a_vocabulary_of_tiktoken_is_read(tmp_path: Path) -> None:
    tokens = [bytes([n]) for n in range(256)] + [b"th", b"the", b" q"]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (tmp_path / "tokenizer.model").write_text("\n".join(lines))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    served = ChatTokenizer(tmp_path, tiny_config("llama"))
    try:
        assert served.decode(await served.tokenize("the quick fox")) == "the quick fox"
    finally:
        served.close()


PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
SPECIAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>")
TEMPLATE = "{{ bos_token }}{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}"


def write_tekken(folder: Path, *, special: bool = True) -> None:
    """A small vocabulary in the form of Mistral's."""
    tokens = [bytes([n]) for n in range(256)] + [b"th", b"the", b" q"]
    vocab = [{"rank": rank, "token_bytes": base64.b64encode(token).decode()} for rank, token in enumerate(tokens)]
    sizes = {"default_num_special_tokens": 10, "default_vocab_size": len(tokens) + 10, "num_vocab_tokens": len(tokens)}
    content: dict[str, Any] = {"config": {"pattern": PATTERN, **sizes, "version": "v7"}, "vocab": vocab}
    if special:
        content["special_tokens"] = [{"rank": i, "token_str": s, "is_control": True} for i, s in enumerate(SPECIAL)]
    (folder / "tekken.json").write_text(json.dumps(content))


async def ids_of(folder: Path, model_type: str) -> tuple[list[int], str, int | None]:
    served = ChatTokenizer(folder, tiny_config(model_type, vocab_size=300))
    try:
        ids = await served.tokenize("the quick fox")
        return ids, served.decode(ids), served.end_token
    finally:
        served.close()


@pytest.mark.parametrize("model_type", ["mistral", "llama"])
@pytest.mark.parametrize(
    "tokenizer_class", [None, "LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "MistralCommonBackend"]
)
async def test_a_tekken_vocabulary_is_read_with_what_its_tokens_are_for(
    tmp_path: Path, model_type: str, tokenizer_class: str | None
) -> None:
    write_tekken(tmp_path)
    if tokenizer_class is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class}))
    ids, text, end = await ids_of(tmp_path, model_type)
    # behind ten special tokens: "the" is the 257th of the others, and the beginning of the text is told
    assert ids[:3] == [1, 267, 268]
    assert text == "the quick fox"
    assert end == 2


async def test_a_tekken_vocabulary_can_leave_out_the_bos_token(tmp_path: Path) -> None:
    write_tekken(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
    assert (await ids_of(tmp_path, "mistral"))[0][0] == 267


async def test_a_converted_model_takes_its_tekken_vocabulary_along(tmp_path: Path, tiny_llama: PreTrainedModel) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", tiny_llama)
    for file in checkpoint.glob("*token*"):
        file.unlink()
    (checkpoint / "chat_template.jinja").unlink(missing_ok=True)
    write_tekken(checkpoint)
    (checkpoint / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    prepare(str(checkpoint)).write(tmp_path / "out")
    served = ChatTokenizer(tmp_path / "out", tiny_config("llama", vocab_size=300))
    try:
        assert (await served.tokenize_chat([{"role": "user", "content": "the"}])) == [1, 3, 267, 4]
    finally:
        served.close()


def refusal(folder: Path) -> str:
    with pytest.raises(BadModelFiles) as caught:
        ChatTokenizer(folder, tiny_config("llama"))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_an_old_tekken_vocabulary_says_what_to_install(tmp_path: Path) -> None:
    if importlib.util.find_spec("mistral_common") is not None:
        pytest.skip("mistral-common is installed here, and reads it")
    write_tekken(tmp_path, special=False)
    assert "pip install mistral-common" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tekken.json", "{}"),
        ("tekken.json", '{"config": {"pattern": 3}, "special_tokens": [], "vocab": [{}]}'),
        ("my-tekken.json", "{}"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", ""),
        ("tokenizer.model", "no model"),
        ("spiece.model", ""),
        ("vocab.json", "["),
    ],
)
def test_a_vocabulary_that_cannot_be_read_is_refused_by_name_in_one_line(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    assert name in refusal(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt"])
@pytest.mark.parametrize(
    ("content", "said"), [("version https://git-lfs.github.com/spec/v1\n", "Git LFS"), ("", "empty")]
)
def test_a_file_that_was_not_downloaded_is_refused_by_name(tmp_path: Path, name: str, content: str, said: str) -> None:
    write_tekken(tmp_path)
    (tmp_path / name).write_text(content)
    assert f"{tmp_path / name} is " in refusal(tmp_path)
    assert said in refusal(tmp_path)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "chat_template.jinja", "generation_config.json", "1_Pooling/config.json"]
)
def test_a_link_out_of_the_directory_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    (tmp_path / "weights" / name).parent.mkdir(parents=True)
    write_tekken(tmp_path / "weights")
    (tmp_path / "weights" / name).symlink_to(tmp_path / "elsewhere")
    assert "is a link out of" in refusal(tmp_path / "weights")


async def chat_ids(folder: Path) -> list[int]:
    served = ChatTokenizer(folder, tiny_config("llama", vocab_size=300))
    try:
        return await served.tokenize_chat([{"role": "user", "content": "the"}])
    finally:
        served.close()


@pytest.mark.parametrize("template", [TEMPLATE, {"default": TEMPLATE, "other": "x{{ messages }}"}])
async def test_a_processors_template_is_used_where_it_is_the_only_one(tmp_path: Path, template: Any) -> None:
    write_tekken(tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert await chat_ids(tmp_path) == [1, 3, 267, 4]


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json"])
async def test_a_tokenizers_own_template_comes_before_a_processors(tmp_path: Path, where: str) -> None:
    write_tekken(tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }} wrong"}))
    text = TEMPLATE if where.endswith("jinja") else json.dumps({"chat_template": TEMPLATE})
    (tmp_path / where).write_text(text)
    assert await chat_ids(tmp_path) == [1, 3, 267, 4]


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"chat_template": 3}', '{"chat_template": {"default": 3}}', "null"]
)
def test_a_processors_template_that_is_none_is_refused_by_name(tmp_path: Path, content: str) -> None:
    write_tekken(tmp_path)
    (tmp_path / "chat_template.json").write_text(content)
    assert "chat_template.json" in refusal(tmp_path)
