"""Which reader a config asks for, and what becomes of a checkpoint's other tensors."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_sepweight import Manifest, PartSpec
from splitlearn import ModelFactory
from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.quantization.gptq import Gptq
from splitlearn.checkpoints.quantization.select import plain_tensors, without_declaration
from splitlearn.checkpoints.quantization.weight import QuantizedWeight
from splitlearn.checkpoints.sources import open_checkpoint
from splitlearn.checkpoints.weight_files import StoredTensor
from splitlearn.errors import BadCheckpoint, UnsupportedModel
from support.packed_codes import RandomCodes
from support.quantized_checkpoints import UP, State, converted, declare, edit, save_quantized, tiny_model

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16}


def gptq(module: str, weight: torch.Tensor) -> State:
    return RandomCodes(*weight.shape, 16, 4).gptq()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_quantized(tmp_path / "gptq", GPTQ, gptq)


@pytest.mark.parametrize("method", ["hqq", "aqlm", "eetq", "quanto", "torchao", "fbgemm_fp8", "mxfp6", "spqr", 7])
def test_a_method_that_is_not_covered_is_refused_by_name(folder: Path, method: object) -> None:
    declare(folder, {"quant_method": method})
    with pytest.raises(
        UnsupportedModel, match=rf"quantised weights \({method}, says config.json\), which are not read"
    ):
        prepare(str(folder))


@pytest.mark.parametrize("section", ["compression_config", "quantization", "quant_config"])
def test_sections_of_other_programs_are_refused_by_the_format_that_they_name(folder: Path, section: str) -> None:
    declare(folder, None, **{section: GPTQ})
    with pytest.raises(UnsupportedModel, match=r"quantised weights \(gptq, says config.json\)"):
        prepare(str(folder))


def test_two_sections_are_refused_by_both_names(folder: Path) -> None:
    declare(folder, GPTQ, text_config={"quantization_config": {"quant_method": "awq"}})
    with pytest.raises(UnsupportedModel, match="gptq and awq"):
        prepare(str(folder))


def test_a_section_that_is_no_object_is_refused(folder: Path) -> None:
    declare(folder, ["gptq"])  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModel, match="gptq"):
        prepare(str(folder))


def test_weights_that_are_not_as_declared_are_refused(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    declare(tmp_path, GPTQ)
    with pytest.raises(BadCheckpoint, match=r"says that weights are quantised \(gptq with 4 bits\), but none are"):
        prepare(str(tmp_path))


def test_layers_that_keep_weights_transposed_are_refused_by_their_shapes(tmp_path: Path) -> None:
    """GPTQ stores gpt2's weights as those of linear layers, which are not the model's."""
    tiny_model("gpt2").save_pretrained(tmp_path)
    declare(tmp_path, GPTQ)

    def change(state: State) -> None:
        for key in [key for key in state if ".c_" in key and key.endswith(".weight")]:
            module, made = key.removesuffix(".weight"), gptq(key, state.pop(key).T)
            state |= {f"{module}.{name}": tensor for name, tensor in made.items()}

    edit(tmp_path, change)
    with pytest.raises(BadCheckpoint, match=r"c_attn\.weight should have the shape \[64, 192\], found \[192, 64\]"):
        prepare(str(tmp_path))


def test_codes_that_the_format_does_not_know_are_refused(folder: Path) -> None:
    def change(state: State) -> None:
        state["model.norm.weight"] = torch.ones(64).to(torch.float8_e4m3fn)

    edit(folder, change)
    with pytest.raises(UnsupportedModel, match=r"model\.norm\.weight is stored as float8_e4m3fn"):
        prepare(str(folder))


@pytest.mark.parametrize(
    ("fields", "dtype", "expected"),
    [
        ({"dtype": "bfloat16"}, None, "bfloat16"),
        ({"dtype": "bfloat16"}, "float16", "float16"),
        # of the embeddings, the head and the norms
        ({"dtype": None}, None, "float32"),
    ],
)
def test_the_dtype_is_the_one_asked_for_or_the_configs_or_that_of_the_other_tensors(
    folder: Path, fields: dict[str, Any], dtype: str | None, expected: str
) -> None:
    declare(folder, GPTQ, **fields)
    conversion = prepare(str(folder), dtype=dtype)
    (up,) = [tensor for tensor in conversion.sections["mid.00003"] if tensor.name == "mlp.up_proj.weight"]
    assert (conversion.dtype, str(up.read().dtype), str(up.dtype)) == (expected, *[f"torch.{expected}"] * 2)


def test_the_manifests_config_no_longer_says_that_weights_are_quantised(folder: Path) -> None:
    prepare(str(folder)).write(folder.parent / "out")
    assert Manifest.read(folder.parent / "out").config.keys().isdisjoint({"quantization_config"})
    assert "quantization_config" in json.loads((folder / "config.json").read_text())


def test_a_section_inside_another_is_removed_and_its_neighbours_stay() -> None:
    values = {"text_config": {"quantization_config": {"bits": 4}, "hidden_size": 8}, "x": 1}
    assert without_declaration(values) == {"text_config": {"hidden_size": 8}, "x": 1}
    assert "quantization_config" in values["text_config"]  # type: ignore[operator]


def test_parts_of_the_library_are_made_of_quantised_checkpoints_too(folder: Path) -> None:
    bottom, trunk, top = ModelFactory.create_split_models("llama", folder, 1, 3)
    prepare(str(folder)).write(folder.parent / "out")
    expected = [part.state_dict() for part in ModelFactory.create_split_models("llama", folder.parent / "out", 1, 3)]
    for part, state in zip((bottom, trunk, top), expected, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in part.state_dict().items())


def test_nothing_is_read_before_it_is_asked_for_and_then_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    class Counted:
        def weights(self, stored: Mapping[str, StoredTensor]) -> Iterator[QuantizedWeight]:
            return Gptq(4, 16, 1).weights({key: counted(tensor) for key, tensor in stored.items()})

        @property
        def title(self) -> str:
            return "counted"

    def counted(tensor: StoredTensor) -> StoredTensor:
        def read() -> torch.Tensor:
            reads.append(tensor.key)
            return tensor.read()

        return StoredTensor(tensor.key, tensor.dtype, tensor.shape, read)

    monkeypatch.setattr("splitlearn.checkpoints.opening.find_format", lambda *_: Counted())
    conversion = prepare(str(folder))
    assert reads == []
    (up,) = [tensor for tensor in conversion.sections["mid.00003"] if tensor.name == "mlp.up_proj.weight"]
    up.read()
    assert sorted(reads) == [f"{UP}.qweight", f"{UP}.qzeros", f"{UP}.scales"]


def test_a_checkpoint_is_opened_for_a_part_without_a_directory(folder: Path) -> None:
    whole = open_checkpoint(str(folder))
    weights = whole.weights(PartSpec.of("2-4"), torch.device("cpu"), torch.float32)
    assert "quantization_config" not in whole.config
    assert torch.equal(weights.mid[3]["mlp.up_proj.weight"], converted(folder)[f"{UP}.weight"])


def test_a_weight_without_other_numbers_beside_it_is_stored_in_bfloat16() -> None:
    stored = {f"x.{name}": StoredTensor.of(f"x.{name}", each) for name, each in gptq("x", torch.ones(8, 16)).items()}
    assert plain_tensors("x", Gptq(4, 16, 1), stored, None)["x.weight"].dtype == torch.bfloat16
