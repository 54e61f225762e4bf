"""What the files of sentence-transformers say of a model's embeddings."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from splitlearn_client.errors import BadModelFiles, NoEmbeddings
from splitlearn_client.pooling_config import Mode, PoolingConfig, read_pooling
from splitlearn_client.settings import ClientSettings
from support.embedding_models import write_modules

MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "include_prompt": True}
ALL = ["Transformer", "Pooling", "Normalize"]


def read(folder: Path, kinds: list[str], pooling: dict[str, Any], prompts: dict[str, Any] | None = None) -> Any:
    write_modules(folder, kinds, pooling, prompts)
    return read_pooling(folder, "auto")


def test_a_model_that_names_none_takes_the_last_token_normalised(tmp_path: Path) -> None:
    assert read_pooling(tmp_path, "auto") == PoolingConfig("lasttoken", is_normalized=True)
    assert read_pooling(tmp_path, "mean") == PoolingConfig("mean", is_normalized=True)


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}, "max"),
        (MEAN, "mean"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len_tokens"),
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": "mean", "embedding_dimension": 8}, "mean"),
        ({"pooling_mode": ["max"]}, "max"),
        ({"word_embedding_dimension": 8}, "mean"),
    ],
)
def test_every_mode_is_read_in_the_forms_of_all_versions(tmp_path: Path, pooling: dict[str, Any], mode: Mode) -> None:
    assert read(tmp_path, ALL, pooling) == PoolingConfig(mode)
    assert read(tmp_path, ["Transformer", "Pooling"], pooling) == PoolingConfig(mode, is_normalized=False)


def test_the_types_of_later_versions_are_known_by_their_last_name(tmp_path: Path) -> None:
    write_modules(tmp_path, ALL, MEAN)
    text = (tmp_path / "modules.json").read_text()
    later = text.replace("models.Pooling", "sentence_transformer.modules.pooling.Pooling")
    (tmp_path / "modules.json").write_text(later)
    assert read_pooling(tmp_path, "auto") == PoolingConfig("mean")


def test_the_default_prompt_comes_before_texts_and_may_not_count(tmp_path: Path) -> None:
    prompts = {"prompts": {"query": "find: ", "document": ""}, "default_prompt_name": "query"}
    assert read(tmp_path, ALL, MEAN, prompts) == PoolingConfig("mean", True, "find: ", True)
    without = read(tmp_path, ALL, {**MEAN, "include_prompt": False}, prompts)
    assert without == PoolingConfig("mean", True, "find: ", False)
    assert read(tmp_path, ALL, MEAN, {**prompts, "default_prompt_name": None}) == PoolingConfig("mean")
    assert read(tmp_path, ALL, MEAN, {}) == PoolingConfig("mean")


@pytest.mark.parametrize(
    ("kinds", "pooling", "words"),
    [
        (["Transformer", "Pooling", "Dense", "Normalize"], MEAN, "need Dense"),
        (["Transformer", "Pooling", "LayerNorm"], MEAN, "need LayerNorm"),
        (ALL, {**MEAN, "pooling_mode_max_tokens": True}, r"\['max', 'mean'\]"),
        (ALL, {"pooling_mode": ["mean", "cls"]}, "mean"),
        (ALL, {"pooling_mode": "attention"}, "attention"),
        (ALL, {"pooling_mode": 5}, "5"),
    ],
)
def test_what_is_not_supported_is_named_and_an_operator_may_choose(
    tmp_path: Path, kinds: list[str], pooling: dict[str, Any], words: str
) -> None:
    found = read(tmp_path, kinds, pooling)
    with pytest.raises(NoEmbeddings, match=f"{words}.*--pooling"):
        raise found
    assert read_pooling(tmp_path, "max") == PoolingConfig("max", is_normalized="Normalize" in kinds)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("modules.json", "{", "cannot be read as JSON"),
        ("modules.json", "{}", "not a JSON list"),
        ("modules.json", "[5]", "without a type"),
        ("modules.json", '[{"type": 5}]', "without a type"),
        ("modules.json", "[" * 5000, "cannot be read as JSON"),
        ("modules.json", '[{"type": "a.Pooling", "path": "../1_Pooling"}]', "lies in N_Pooling"),
        ("modules.json", '[{"type": "a.Pooling", "path": "/etc"}]', "lies in N_Pooling"),
        ("modules.json", '[{"type": "a.Pooling", "path": "2_Pooling"}]', "is missing"),
        ("1_Pooling/config.json", "[]", "not a JSON object"),
        ("1_Pooling/config.json", b"\xff", "cannot be read as JSON"),
        ("config_sentence_transformers.json", '{"default_prompt_name": "query"}', "no prompt that is called 'query'"),
        ("config_sentence_transformers.json", '{"default_prompt_name": 5, "prompts": []}', "no prompt that is called"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(
    tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    write_modules(tmp_path, ALL, MEAN, {"prompts": {}})
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadModelFiles, match=words):
        read_pooling(tmp_path, "auto")


def test_the_setting_has_the_modes_and_auto() -> None:
    assert set(get_args(ClientSettings.model_fields["pooling"].annotation)) == {"auto", *get_args(Mode)}


def test_a_model_of_sentence_transformers_is_no_less_one_with_other_fields(tmp_path: Path) -> None:
    extra = {"__version__": {"sentence_transformers": "5"}, "similarity_fn_name": "cosine", "model_type": "x"}
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 5}))
    assert read(tmp_path, ALL, {**MEAN, "word_embedding_dimension": 8, "other": 1}, extra) == PoolingConfig("mean")
