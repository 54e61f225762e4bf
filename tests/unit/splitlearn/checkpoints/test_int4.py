"""Weights of 4 bits go from a checkpoint to the kernel as they are."""

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from torch import nn

from llm_sepweight import Manifest, load, verify
from splitlearn.backends.cpu.linear import MergedLinearSlice, NativeInt4Linear
from splitlearn.backends.cpu.linear.int4 import Int4Parameter, Int4Weight
from splitlearn.backends.cpu.packing import pack
from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.costs import read_stored
from splitlearn.checkpoints.int4 import packed_weights
from splitlearn.checkpoints.load import fill, load_part
from splitlearn.checkpoints.sources import open_sepweight
from splitlearn.errors import BadCheckpoint
from splitlearn.model.part import Part
from support.gguf_files import random_blocks, shapes, write_gguf
from support.packed_codes import RandomCodes
from support.quantized_checkpoints import UP, State, edit, save_quantized

PROMPT = torch.arange(3, 20)
UP_PART = f"model.{UP}"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}


def compressed(**weights: Any) -> dict[str, Any]:
    scheme = {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "group", "group_size": 32, **weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
    }


class Packed:
    """Replaces weights by random codes, and remembers them by the names of modules."""

    def __init__(
        self,
        pack_codes: Callable[[RandomCodes], State],
        group: int = 32,
        *,
        symmetric: bool = False,
        act_order: bool = False,
    ) -> None:
        self._pack, self._group, self._symmetric, self._act_order = pack_codes, group, symmetric, act_order
        self.codes: dict[str, RandomCodes] = {}

    def __call__(self, module: str, weight: torch.Tensor) -> State:
        outputs, inputs = weight.shape
        order = torch.randperm(inputs) // self._group if self._act_order else None
        codes = self.codes[module] = RandomCodes(outputs, inputs, self._group, 4, order)
        if self._symmetric:
            codes.make_symmetric()
        return self._pack(codes) | ({} if order is None else {"g_idx": order.int()})

    def expected(self, module: str) -> Int4Weight:
        codes = self.codes[module]
        zeros_NG = None if self._symmetric else codes.zeros_GO.T.half()
        return Int4Weight(codes.codes_IO.T.to(torch.uint8), codes.scales_GO.T, zeros_NG, self._group)


FORMATS: dict[str, tuple[dict[str, Any], Callable[[], Packed]]] = {
    "gptq": (GPTQ, lambda: Packed(RandomCodes.gptq)),
    "gptq symmetric": (GPTQ, lambda: Packed(RandomCodes.gptq, symmetric=True)),
    "gptq v2": ({**GPTQ, "checkpoint_format": "gptq_v2"}, lambda: Packed(lambda codes: codes.gptq(2))),
    "gptq, order told": (
        GPTQ,
        lambda: Packed(lambda codes: codes.gptq() | {"g_idx": torch.arange(len(codes.codes_IO)).int() // 32}),
    ),
    "awq gemm": ({**AWQ, "version": "gemm"}, lambda: Packed(RandomCodes.awq_gemm)),
    "awq gemv": ({**AWQ, "version": "gemv"}, lambda: Packed(lambda codes: codes.awq_gemv(4))),
    "compressed-tensors": (
        compressed(),
        lambda: Packed(lambda codes: codes.compressed(symmetric=True), symmetric=True),
    ),
    "compressed-tensors with zeros": (
        compressed(symmetric=False),
        lambda: Packed(lambda codes: codes.compressed(symmetric=False)),
    ),
}


@pytest.fixture(params=FORMATS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Packed]:
    declared, made = FORMATS[request.param]
    packed = made()
    return save_quantized(tmp_path / "checkpoint", declared, packed), packed


def convert(source: Path, out: Path, dtype: str = "bfloat16") -> Path:
    prepare(str(source), dtype=dtype, keep_int4=True).write(out)
    return out


def gptq(folder: Path, **options: Any) -> Path:
    return save_quantized(folder, GPTQ, Packed(RandomCodes.gptq, **options))


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
def test_no_file_stays_mapped_once_the_part_is_packed(tmp_path: Path) -> None:
    out = convert(gptq(tmp_path / "checkpoint"), tmp_path / "out")
    part = load_part(out, "1-3", keep_int4=True)
    assert str(out) in Path("/proc/self/maps").read_text()
    pack(part, "int4")
    gc.collect()
    assert str(out) not in Path("/proc/self/maps").read_text()


def test_the_library_of_whole_models_takes_the_numbers(tmp_path: Path) -> None:
    out, cpu = convert(gptq(tmp_path / "checkpoint"), tmp_path / "out"), torch.device("cpu")
    part, expected = load_part(out, "1-2", keep_int4=True), load_part(out, "1-2")
    fill(part, open_sepweight(out).weights(part.spec, cpu, torch.bfloat16), cpu, torch.bfloat16)
    assert all(same(tensor, expected.state_dict()[name]) for name, tensor in part.state_dict().items())


def test_the_manifest_tells_what_the_files_hold(tmp_path: Path) -> None:
    source = gptq(tmp_path / "checkpoint")
    plain = prepare(str(source), dtype="bfloat16").write(tmp_path / "plain")
    out = convert(source, tmp_path / "out")
    kept = Manifest.read(out)
    assert kept.dequantized == {name: plain.files[name].size for name in kept.files if name.startswith("mid")}
    assert kept.files["mid.00000"].size < 0.5 * plain.files["mid.00000"].size
    assert kept.files["end"] == plain.files["end"]
    assert kept.digest != plain.digest
    assert read_stored(out).sections == read_stored(tmp_path / "plain").sections
    verify(out)


def test_all_zeros_in_the_middle_are_not_stored(tmp_path: Path) -> None:
    out = convert(gptq(tmp_path / "checkpoint", symmetric=True), tmp_path / "out")
    assert not [name for name in load(out, "0-1").mid[0] if name.endswith("int4_zeros")]


def notes(source: Path, **options: Any) -> list[str]:
    return prepare(str(source), keep_int4=True, **options).notes()


def test_inputs_that_act_order_deals_to_groups_are_dequantised(tmp_path: Path) -> None:
    source = gptq(tmp_path / "checkpoint", act_order=True)
    (said,) = notes(source)
    assert said.startswith("dequantised 35 weights of 4 bits, as act-order deals inputs to groups: model.layers.*.self")
    prepare(str(source), dtype="bfloat16").write(tmp_path / "plain")
    assert Manifest.read(convert(source, tmp_path / "out")).digest == Manifest.read(tmp_path / "plain").digest


def test_small_groups_are_dequantised(tmp_path: Path) -> None:
    packed = Packed(RandomCodes.gptq, 16)
    source = save_quantized(tmp_path / "checkpoint", {**GPTQ, "group_size": 16}, packed)
    assert notes(source)[0].startswith("dequantised 35 weights of 4 bits, as groups of 16 inputs are no multiple of 32")


@pytest.mark.parametrize("scale", [1 + 2**-12, 2.0**-26, 2.0**13, float("nan"), float("inf")])
def test_scales_that_float16_does_not_hold_make_numbers_of_a_weight(scale: float, tmp_path: Path) -> None:
    def change(state: State) -> None:
        state[f"{UP}.scales"] = state[f"{UP}.scales"].float()
        state[f"{UP}.scales"][0, 3] = scale

    source = gptq(tmp_path / "checkpoint")
    edit(source, change)
    assert notes(source, dtype="bfloat16") == [
        "keeps 34 weights in 4 bits",
        f"dequantised 1 weight of 4 bits, as float16 does not hold the scales: {UP}.weight",
    ]
    part = load_part(convert(source, tmp_path / "out"), "3-4")
    prepare(str(source), dtype="bfloat16").write(tmp_path / "plain")
    plain, name = load_part(tmp_path / "plain", "3-4"), "model.model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(part.get_parameter(name), plain.get_parameter(name), rtol=0, atol=0, equal_nan=True)


def test_embeddings_and_a_head_that_is_tied_to_them_are_dequantised(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", kind=Kind.Q4_0, tied=True)
    assert notes(source) == [
        "keeps 21 weights in 4 bits",
        "dequantised 1 weight of 4 bits, as they are of no linear layer: model.embed_tokens.weight",
    ]


def test_experts_that_the_model_holds_in_one_tensor_are_dequantised(tmp_path: Path) -> None:
    packed = Packed(RandomCodes.gptq)
    source = save_quantized(tmp_path / "checkpoint", GPTQ, packed, "mixtral")
    found = notes(source)
    assert found[0] == "keeps 20 weights in 4 bits"
    assert found[1].startswith("dequantised 10 weights of 4 bits, as the model arranges them in another way")
    out = convert(source, tmp_path / "out", "float32")
    prepare(str(source), dtype="float32").write(tmp_path / "plain")
    assert torch.equal(logits(load_part(out, "f")), logits(load_part(tmp_path / "plain", "f")))


def test_a_checkpoint_without_weights_of_4_bits_is_said_to_have_none(tmp_path: Path) -> None:
    assert notes(write_gguf(tmp_path / "tiny.gguf")) == [
        "keeps nothing in 4 bits: the checkpoint has no weights of 4 bits in groups of inputs"
    ]


def stored(**changes: torch.Tensor | None) -> State:
    """A weight [4, 64] in groups of 32."""
    whole = {
        "w.int4_levels": torch.zeros(4, 32, dtype=torch.uint8),
        "w.int4_scales": torch.ones(4, 2).half(),
        "w.int4_zeros": torch.ones(4, 2).half(),
    }
    given = {name.replace("_of_", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in {**whole, **given}.items() if tensor is not None}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"w_of_int4_scales": None}, r"w\.int4_levels has no int4_scales"),
        ({"w_of_int4_levels": None}, r"w\.int4_(scales|zeros) has no int4_levels"),
        ({"w": torch.ones(4, 64)}, "w is stored both as numbers and in 4 bits"),
        ({"w_of_int4_levels": torch.zeros(4, 32)}, r"a matrix of bytes, and is float32 \[4, 32\]"),
        ({"w_of_int4_levels": torch.zeros(32, dtype=torch.uint8)}, "int4_levels should be a matrix"),
        ({"w_of_int4_levels": torch.zeros(0, 32, dtype=torch.uint8)}, "int4_levels should be a matrix"),
        ({"w_of_int4_levels": torch.zeros(4, 31, dtype=torch.uint8)}, "whole groups of 62 inputs"),
        ({"w_of_int4_scales": torch.ones(4, 2)}, r"int4_scales should be float16 .*, and is float32 \[4, 2\]"),
        ({"w_of_int4_scales": torch.ones(5, 2).half()}, "int4_scales should be float16 for 4 outputs"),
        ({"w_of_int4_scales": torch.ones(4, 4).half()}, "whole groups of 64 inputs"),
        ({"w_of_int4_scales": torch.ones(4, 0).half()}, "whole groups of 64 inputs"),
        ({"w_of_int4_zeros": torch.ones(4, 1).half()}, r"int4_zeros should be float16 \[4, 2\]"),
        ({"w_of_int4_zeros": torch.ones(4, 2).int()}, r"int4_zeros should be .*, and is int32"),
    ],
)
def test_tensors_that_do_not_belong_together_are_named(changes: dict[str, Any], named: str) -> None:
    assert packed_weights(stored())["w"].shape == (4, 64)
    with pytest.raises(BadCheckpoint, match=named):
        packed_weights(stored(**changes))
