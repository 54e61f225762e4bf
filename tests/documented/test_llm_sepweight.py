"""What the document of llm_sepweight shows, run as it stands there, on tiny models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import FalconConfig, PreTrainedModel

import llm_sepweight
from llm_sepweight.pth_conversion import convert_pth_files
from llm_sepweight.safetensors_conversion import convert_safetensors_files
from splitlearn import decider_for
from support.tiny_models import ARCHITECTURES, random_model, tiny_config

N_LAYERS = 14


class Exploit:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must never be printed",)


@pytest.fixture(scope="module")
def falcon() -> PreTrainedModel:
    config = FalconConfig(**{**ARCHITECTURES["falcon"], "num_hidden_layers": N_LAYERS})
    return random_model(config).requires_grad_(False)


@pytest.fixture(scope="module")
def decider(falcon: PreTrainedModel) -> Callable[[str], list[str]]:
    return decider_for(falcon.config)


@pytest.fixture(scope="module")
def shards(falcon: PreTrainedModel) -> list[dict[str, torch.Tensor]]:
    """The state dict in two, as large models come."""
    items = [(key, tensor.clone()) for key, tensor in falcon.state_dict().items()]
    return [dict(items[: len(items) // 2]), dict(items[len(items) // 2 :])]


@pytest.fixture(scope="module")
def directory(
    tmp_path_factory: pytest.TempPathFactory, falcon: PreTrainedModel, decider: Callable[[str], list[str]]
) -> Path:
    out_path = tmp_path_factory.mktemp("sepweight") / "falcon"
    llm_sepweight.dump(decider=decider, state_dict=falcon.state_dict(), out_path=out_path)
    return out_path


def test_the_decider_answers_as_shown() -> None:
    falcon_decider = decider_for(tiny_config("falcon"))
    layer = "self_attention.query_key_value"
    assert falcon_decider("transformer.word_embeddings.weight") == ["start", "word_embeddings.weight"]
    assert falcon_decider(f"transformer.h.0.{layer}.weight") == ["mid", "0", f"{layer}.weight"]
    assert falcon_decider(f"transformer.h.7.{layer}.bias") == ["mid", "7", f"{layer}.bias"]
    assert falcon_decider("lm_head.weight") == ["end", "lm_head.weight"]


def test_begin_is_another_word_for_start(tmp_path: Path) -> None:
    def decider(key: str) -> list[str]:
        return ["begin", key]

    llm_sepweight.dump(decider=decider, state_dict={"a": torch.ones(1)}, out_path=tmp_path)
    assert list(llm_sepweight.load(path=tmp_path, part_spec="b").to_dict()) == ["begin.a"]


def test_dump_at_once_or_shard_by_shard(
    tmp_path: Path, directory: Path, decider: Callable[[str], list[str]], shards: list[dict[str, torch.Tensor]]
) -> None:
    for state_dict in shards:
        llm_sepweight.dump(decider=decider, state_dict=state_dict, out_path=tmp_path)
    assert_same(tmp_path, directory)


@pytest.mark.parametrize("extension", ["pth", "bin"])
def test_dump_pth_or_bin_files(
    tmp_path: Path,
    extension: str,
    directory: Path,
    decider: Callable[[str], list[str]],
    shards: list[dict[str, torch.Tensor]],
) -> None:
    (tmp_path / "in").mkdir()
    for i, shard in enumerate(shards):
        torch.save(shard, tmp_path / "in" / f"pytorch_model-{i}.{extension}")
    convert_pth_files(
        in_path=str(tmp_path / "in"), out_path=str(tmp_path / "out"), decider=decider, extension=extension
    )
    assert_same(tmp_path / "out", directory)


def test_dump_safetensors(
    tmp_path: Path, directory: Path, decider: Callable[[str], list[str]], shards: list[dict[str, torch.Tensor]]
) -> None:
    (tmp_path / "in").mkdir()
    for i, shard in enumerate(shards):
        save_file(shard, tmp_path / "in" / f"model-{i}.safetensors")
    convert_safetensors_files(in_path=str(tmp_path / "in"), out_path=str(tmp_path / "out"), decider=decider)
    assert_same(tmp_path / "out", directory)


@pytest.mark.parametrize(
    ("part_spec", "sections"),
    [
        ("b 0-5", ["begin", *(f"mid.{layer}" for layer in range(5))]),
        ("7-12", [f"mid.{layer}" for layer in range(7, 12)]),
        ("9-14 e", [*(f"mid.{layer}" for layer in range(9, 14)), "end"]),
        ("b 0-2 5-7 e", ["begin", "mid.0", "mid.1", "mid.5", "mid.6", "end"]),
        ("f", ["begin", *(f"mid.{layer}" for layer in range(N_LAYERS)), "end"]),
    ],
)
def test_load_what_a_part_needs(directory: Path, part_spec: str, sections: list[str]) -> None:
    loaded = llm_sepweight.load(path=str(directory), part_spec=part_spec).to_dict()
    found = [".".join(key.split(".")[: 2 if key.startswith("mid") else 1]) for key in loaded]
    assert list(dict.fromkeys(found)) == sections


def test_what_was_dumped_is_loaded(directory: Path, falcon: PreTrainedModel) -> None:
    loaded = llm_sepweight.load(path=directory, part_spec="f").to_dict()
    state = falcon.state_dict()
    assert len(loaded) == len(state)
    assert torch.equal(loaded["begin.word_embeddings.weight"], state["transformer.word_embeddings.weight"])
    for layer in (0, 13):
        name = "self_attention.query_key_value.weight"
        assert torch.equal(loaded[f"mid.{layer}.{name}"], state[f"transformer.h.{layer}.{name}"])
    assert torch.equal(loaded["end.lm_head.weight"], state["lm_head.weight"])


def test_file_names_for_a_part(directory: Path) -> None:
    assert llm_sepweight.get_filenames("b 0-1")[:2] == ["begin.safetensors", "mid.00000.safetensors"]
    assert all((directory / name).exists() for name in llm_sepweight.get_filenames("f", directory))


def test_a_module_is_filled_lazily(directory: Path, falcon: PreTrainedModel) -> None:
    with torch.device("meta"):
        layer = type(falcon.transformer.h[3])(falcon.config, layer_idx=3)
    llm_sepweight.lazy_load(layer, directory, "3-4", rename=lambda key: key.removeprefix("mid.3."))
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, falcon.transformer.h[3].state_dict()[name])


def test_directories_that_the_original_library_made_load(
    tmp_path: Path, directory: Path, decider: Callable[[str], list[str]], falcon: PreTrainedModel
) -> None:
    files: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in falcon.state_dict().items():
        section, *layer, name = decider(key)
        stem = {"start": "begin", "end": "end"}.get(section) or f"mid.{int(layer[0]):05d}"
        files.setdefault(stem, {})[name] = tensor
    for stem, tensors in files.items():
        torch.save(tensors, tmp_path / f"{stem}.pth")
    assert_same(tmp_path, directory)


def test_a_pickle_that_holds_more_than_tensors_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": Exploit()}, tmp_path / "begin.pth")
    with pytest.raises(llm_sepweight.UntrustedPickle, match=r"begin\.pth: holds more than tensors"):
        llm_sepweight.load(path=tmp_path, part_spec="b")
    assert capfd.readouterr().out == ""


def assert_same(one: Path, other: Path) -> None:
    found, expected = (llm_sepweight.load(path=path, part_spec="f").to_dict() for path in (one, other))
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
