"""Weights that a directory has in 4 bits go to the kernel as they are, and become numbers for all else."""

import gc
import sys
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from torch import nn

from splitlearn.backends.cpu.linear import MergedLinearSlice, NativeInt4Linear
from splitlearn.backends.cpu.linear.int4 import Int4Parameter
from splitlearn.backends.cpu.packing import pack
from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.load import fill, load_part, load_parts
from splitlearn.checkpoints.sources import open_sepweight
from splitlearn.model.part import Part
from support.gguf_files import random_blocks, shapes, write_gguf
from support.int4_checkpoints import FORMATS, Packed, convert, gptq
from support.quantized_checkpoints import UP, State, edit, save_quantized

PROMPT = torch.arange(3, 20)
UP_PART = f"model.{UP}"


@pytest.fixture(params=FORMATS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Packed]:
    declared, made = FORMATS[request.param]
    packed = made()
    return save_quantized(tmp_path / "checkpoint", declared, packed), packed


def logits(part: Part) -> torch.Tensor:
    return part(PROMPT, 0, part.new_cache()).float()


def greedy(part: Part, n_tokens: int = 12) -> list[int]:
    cache, position, rows, tokens = part.new_cache(), 0, PROMPT, []
    for _ in range(n_tokens):
        token = part(rows, position, cache).argmax()
        position += rows.shape[0]
        rows = token[None]
        tokens.append(int(token))
    return tokens


def same(found: torch.Tensor | None, expected: torch.Tensor | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return found.dtype == expected.dtype and torch.equal(found, expected)


def linears(part: Part) -> dict[str, nn.Linear]:
    return {name: each for name, each in part.named_modules() if type(each) is nn.Linear and "lm_head" not in name}


def test_levels_scales_and_zeros_reach_the_kernel_as_the_checkpoint_has_them(
    checkpoint: tuple[Path, Packed], tmp_path: Path
) -> None:
    source, packed = checkpoint
    part = load_part(convert(source, tmp_path / "out"), "f", keep_int4=True)
    assert linears(part).keys() == {f"model.{module}" for module in packed.codes}
    for name, linear in linears(part).items():
        assert isinstance(linear.weight, Int4Parameter)
        found, expected = linear.weight.packed.unpacked(), packed.expected(name.removeprefix("model."))
        assert same(found.levels_NK, expected.levels_NK)
        assert same(found.scale_NG, expected.scale_NG)
        assert same(found.zero_NG, expected.zero_NG)
        assert found.group_size == 32
        by_kernel, of_codes = NativeInt4Linear(linear.weight), NativeInt4Linear(expected)
        both = zip(by_kernel.descriptor.tensors, of_codes.descriptor.tensors, strict=True)
        assert all(torch.equal(*pair) for pair in both)
    pack(part, "int4")
    for module, codes in packed.codes.items():
        assert torch.equal(part.get_submodule(f"model.{module}").weight, codes.weight_OI.bfloat16())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_without_int4_numbers_are_those_of_a_directory_without_the_option(
    checkpoint: tuple[Path, Packed], dtype: str, tmp_path: Path
) -> None:
    source, _ = checkpoint
    prepare(str(source), dtype=dtype).write(tmp_path / "plain")
    kept = load_part(convert(source, tmp_path / "kept", dtype), "f")
    plain = load_part(tmp_path / "plain", "f")
    expected = plain.state_dict()
    assert kept.state_dict().keys() == expected.keys()
    assert all(same(tensor, expected[name]) for name, tensor in kept.state_dict().items())


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_gguf_file_of_q4_0_is_kept_with_the_rows_of_heads_in_order(symmetric: bool, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", "llama" if symmetric else "qwen2", Kind.Q4_0)
    part = load_part(convert(source, tmp_path / "out"), "f", keep_int4=True)
    prepare(str(source), dtype="float32").write(tmp_path / "plain")
    plain = load_part(tmp_path / "plain", "f")
    for name, linear in linears(part).items():
        assert isinstance(linear.weight, Int4Parameter)
        assert linear.weight.packed.zero_NG is None
        assert torch.equal(linear.weight.packed.unpacked().dequantized(), plain.get_parameter(f"{name}.weight"))
    names = [*shapes("llama" if symmetric else "qwen2")]
    blocks = random_blocks(Kind.Q4_0, 512, 256, seed=names.index("blk.0.ffn_up.weight")).reshape(512 * 8, 18)
    levels_NK = torch.tensor([[*(codes & 15), *(codes >> 4)] for codes in blocks[:, 2:]]).reshape(512, 256)
    up = part.get_submodule("model.model.layers.0.mlp.up_proj").weight.packed.unpacked()
    assert same(up.levels_NK, levels_NK.to(torch.uint8))
    assert same(up.scale_NG, torch.tensor(blocks[:, :2].copy().view("float16")).reshape(512, 8))


def test_a_gguf_file_of_q4_1_is_kept_with_its_minima(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", kind=Kind.Q4_1)
    out = convert(source, tmp_path / "out")
    prepare(str(source), dtype="bfloat16").write(tmp_path / "plain")
    part, numbers, plain = (
        load_part(out, "0-1", keep_int4=True),
        load_part(out, "0-1"),
        load_part(tmp_path / "plain", "0-1"),
    )
    assert all(same(tensor, plain.state_dict()[name]) for name, tensor in numbers.state_dict().items())
    blocks = random_blocks(Kind.Q4_1, 512, 256, seed=[*shapes("llama")].index("blk.0.ffn_up.weight")).reshape(-1, 20)
    scales, minima = (torch.tensor(blocks[:, at : at + 2].copy().view("float16")).reshape(512, 8) for at in (0, 2))
    found = part.get_submodule("model.model.layers.0.mlp.up_proj").weight.packed.unpacked()
    assert same(found.scale_NG, scales)
    assert found.zero_NG is not None
    torch.testing.assert_close(found.zero_NG.double(), -minima.double() / scales.double(), rtol=2**-11, atol=0)
    pack(part, "int4")
    assert [type(each) for each in part.modules()].count(MergedLinearSlice) == 5


@pytest.mark.parametrize("source", ["gptq", "awq gemm", "gguf"])
def test_a_whole_model_says_what_its_numbers_say(source: str, tmp_path: Path) -> None:
    if source == "gguf":
        path = write_gguf(tmp_path / "tiny.gguf", kind=Kind.Q4_0)
    else:
        declared, made = FORMATS[source]
        path = save_quantized(tmp_path / "checkpoint", declared, made())
    out = convert(path, tmp_path / "out", "float32")
    exact, kept = load_part(out, "f"), load_part(out, "f", keep_int4=True)
    # the head is no weight of 4 bits in every checkpoint, and would be rounded
    kept_head = exact.model.get_output_embeddings()
    kept.model.set_output_embeddings(nn.Identity())
    done = pack(kept, "int4")
    kept.model.set_output_embeddings(kept_head)
    assert done.n_linears == len(linears(exact))
    torch.testing.assert_close(logits(kept), logits(exact), rtol=1e-4, atol=1e-4)
    assert greedy(kept) == greedy(exact)


def test_our_kernels_stay_near_the_numbers(tmp_path: Path) -> None:
    out = convert(gptq(tmp_path / "checkpoint"), tmp_path / "out")
    expected_V, part = logits(load_part(out, "f", dtype="float32")), load_part(out, "f", keep_int4=True)
    pack(part, "int4")
    assert isinstance(part.get_submodule("model.model.layers.0.mlp.down_proj"), NativeInt4Linear)
    assert 0 < (logits(part) - expected_V).std() < 0.5 * expected_V.std()


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_other_quantizations_take_the_numbers(quantization: str, tmp_path: Path) -> None:
    out = convert(gptq(tmp_path / "checkpoint"), tmp_path / "out")
    kept, plain = load_part(out, "f", keep_int4=True), load_part(out, "f")
    pack(kept, quantization)
    pack(plain, quantization)
    assert torch.equal(logits(kept), logits(plain))


@pytest.mark.parametrize("symmetric", [False, True])
def test_siblings_share_one_packed_weight(symmetric: bool, tmp_path: Path) -> None:
    part = load_part(convert(gptq(tmp_path / "gptq", symmetric=symmetric), tmp_path / "out"), "0-1", keep_int4=True)
    pack(part, "int4")
    shared = {module.fused for module in part.modules() if isinstance(module, MergedLinearSlice)}
    assert sorted(len(each.widths) for each in shared) == [2, 3]


def test_siblings_of_which_one_alone_has_zeros_stay_apart(tmp_path: Path) -> None:
    def make_symmetric(state: State) -> None:
        # what version 1 stores for 8 in every code
        state[f"{UP}.qzeros"] = torch.full_like(state[f"{UP}.qzeros"], 0x77777777)

    source = gptq(tmp_path / "gptq")
    edit(source, make_symmetric)
    part = load_part(convert(source, tmp_path / "out"), "f", keep_int4=True)
    pack(part, "int4")
    assert isinstance(part.get_submodule(UP_PART), NativeInt4Linear)
    assert isinstance(part.get_submodule(UP_PART.replace("up_proj", "gate_proj")), NativeInt4Linear)


def test_a_part_that_is_not_packed_says_nothing_rather_than_something_wrong(tmp_path: Path) -> None:
    out = convert(gptq(tmp_path / "checkpoint"), tmp_path / "out")
    assert logits(load_part(out, "f", keep_int4=True)).isnan().all()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's table of mappings")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_file_stays_mapped_once_the_part_is_packed(dtype: str, tmp_path: Path) -> None:
    out = convert(gptq(tmp_path / "checkpoint"), tmp_path / "out")
    part = load_part(out, "1-3", keep_int4=True, dtype=dtype)
    assert str(out) in Path("/proc/self/maps").read_text()
    pack(part, "int4")
    gc.collect()
    assert str(out) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("keep_int4", [False, True])
def test_parts_that_are_loaded_together_have_a_weight_once(keep_int4: bool, tmp_path: Path) -> None:
    out = convert(gptq(tmp_path / "checkpoint"), tmp_path / "out")
    below, above, other = load_parts(out, ["0-2", "1-3", "3-5"], keep_int4=keep_int4)
    name = "model.model.layers.{}.mlp.up_proj.weight"
    assert below.get_parameter(name.format(1)).data_ptr() == above.get_parameter(name.format(0)).data_ptr()
    alone = load_part(out, "3-5").get_parameter(name.format(0))
    found = other.get_parameter(name.format(0))
    assert torch.equal(found.dequantized() if isinstance(found, Int4Parameter) else found, alone)


def test_the_library_of_whole_models_takes_the_numbers(tmp_path: Path) -> None:
    out, cpu = convert(gptq(tmp_path / "checkpoint"), tmp_path / "out"), torch.device("cpu")
    part, expected = load_part(out, "1-2", keep_int4=True), load_part(out, "1-2")
    fill(part, open_sepweight(out).weights(part.spec, cpu, torch.bfloat16), cpu, torch.bfloat16)
    assert all(same(tensor, expected.state_dict()[name]) for name, tensor in part.state_dict().items())
