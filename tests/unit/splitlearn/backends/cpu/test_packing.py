import gc
import sys
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from splitlearn.backends.cpu.linear import Int4Linear, Int8Linear, MergedLinearSlice, PackedLinear
from splitlearn.backends.cpu.linear.int4 import Int4Parameter, PackedInt4Weight
from splitlearn.backends.cpu.packing import pack, resolve_quantization
from splitlearn.checkpoints.load import load_part, load_parts
from splitlearn.errors import BadDevice
from splitlearn.model.part import Part
from support.tiny_models import random_model, save_sepweight, tiny_config

PROMPT = torch.arange(3, 20)
ARCHITECTURES = ("llama", "gpt2", "qwen2")
# oneDNN packs outputs by 64 and fills the last block up
WHOLE_BLOCKS = {"intermediate_size": 128}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return save_sepweight(folder, random_model(tiny_config(request.param, **WHOLE_BLOCKS)))


def greedy(part: Part, n_tokens: int = 12) -> list[int]:
    cache, position, rows, tokens = part.new_cache(), 0, PROMPT, []
    for _ in range(n_tokens):
        token = part(rows, position, cache).argmax()
        position += rows.shape[0]
        rows = token[None]
        tokens.append(int(token))
    return tokens


def logits(part: Part) -> torch.Tensor:
    return part(PROMPT, 0, part.new_cache())


def matrices(part: Part) -> list[torch.Tensor]:
    return [tensor for tensor in (*part.parameters(), *part.buffers()) if tensor.ndim > 1]


def test_a_packed_part_says_the_same_tokens(weights: Path) -> None:
    part = load_part(weights, "f")
    expected, expected_V = greedy(part), logits(part)
    pack(part)
    assert greedy(part) == expected
    torch.testing.assert_close(logits(part), expected_V, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "share"), [("int8", 0.1), ("int4", 0.5)])
def test_rounded_weights_stay_near_the_native_ones(weights: Path, kind: str, share: float) -> None:
    part = load_part(weights, "f")
    expected_V = logits(part)
    pack(part, kind)
    off_V = logits(part) - expected_V
    assert 0 < off_V.std() < share * expected_V.std()


@pytest.mark.parametrize(("kind", "n_bytes"), [("none", 4), ("int8", 1), ("int4", 0.5)])
def test_no_linear_layer_is_left_and_only_embeddings_remain_as_matrices(
    weights: Path, kind: str, n_bytes: float
) -> None:
    part = load_part(weights, "f")
    stock = [m for m in part.modules() if type(m).__name__ in ("Linear", "Conv1D")]
    expected = sum(m.weight.numel() for m in stock)
    done = pack(part, kind)
    assert done.n_linears == len(stock)
    assert done.n_bytes == expected * n_bytes
    assert not [m for m in part.modules() if type(m).__name__ in ("Linear", "Conv1D")]
    embeddings = {id(m.weight) for m in part.modules() if isinstance(m, nn.Embedding)}
    assert all(t.dtype in (torch.int8, torch.uint8) or id(t) in embeddings for t in matrices(part))


def test_the_original_weights_are_freed_even_if_someone_holds_the_old_module() -> None:
    model = nn.Sequential(nn.Linear(32, 16)).requires_grad_(False)
    old = model[0]
    weight = weakref.ref(old.weight)
    pack(model)
    gc.collect()
    assert weight() is None
    assert isinstance(model[0], PackedLinear)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's table of mappings")
def test_no_file_stays_mapped_for_the_norms_alone(tmp_path: Path) -> None:
    folder = save_sepweight(tmp_path, random_model(tiny_config("llama")))
    part = load_part(folder, "1-3")
    assert str(folder) in Path("/proc/self/maps").read_text()
    pack(part)
    gc.collect()
    assert str(folder) not in Path("/proc/self/maps").read_text()


def test_a_tied_head_is_packed_and_the_embedding_keeps_its_own_weight(tmp_path: Path) -> None:
    folder = save_sepweight(tmp_path, random_model(tiny_config("llama", tie_word_embeddings=True)))
    whole = load_part(folder, "f")
    expected = greedy(whole)
    bottom, top = load_parts(folder, ["b 0-2", "2-5 e"])
    embedding = bottom.model.get_input_embeddings().weight
    address, values = embedding.data_ptr(), embedding.clone()
    pack(top)
    pack(whole)
    assert isinstance(top.model.get_output_embeddings(), PackedLinear)
    assert (embedding.data_ptr(), torch.equal(embedding, values)) == (address, True)
    assert greedy(whole) == expected


def test_hooks_stay_with_the_layer_that_they_were_put_on() -> None:
    model = nn.Sequential(nn.Linear(16, 4)).requires_grad_(False)
    seen = []
    model[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    model[0].register_forward_hook(lambda _, __, output: output * 0)
    pack(model)
    assert torch.equal(model(torch.ones(3, 16)), torch.zeros(3, 4))
    assert seen == [torch.Size([3, 16])]


def test_a_layer_that_hangs_in_two_places_is_packed_once() -> None:
    layer = nn.Linear(64, 64)
    model = nn.Sequential(layer, nn.ReLU(), layer).requires_grad_(False)
    done = pack(model)
    assert model[0] is model[2]
    assert (done.n_linears, done.n_experts, done.n_bytes) == (1, 0, 64 * 64 * 4)


def test_subclasses_with_a_forward_of_their_own_are_left_alone() -> None:
    class Doubling(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
            return 2 * super().forward(input)

    model = nn.Sequential(Doubling(16, 4))
    assert pack(model).n_linears == 0
    assert type(model[0]) is Doubling


def test_widths_without_an_int8_kernel_keep_their_values() -> None:
    model = nn.Sequential(nn.Linear(20, 16), nn.Linear(16, 4)).requires_grad_(False)
    pack(model, "int8")
    assert [type(layer) for layer in model] == [PackedLinear, Int8Linear]


def test_packing_twice_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(16, 4)).requires_grad_(False)
    pack(model)
    packed = model[0]
    assert pack(model, "int8").n_linears == 0
    assert model[0] is packed


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_layers_that_take_the_same_rows_share_one_packed_weight(tmp_path: Path, kind: str) -> None:
    folder = save_sepweight(tmp_path, random_model(tiny_config("llama")))
    part, rounded = load_part(folder, "0-1"), load_part(folder, "0-1")
    pack(part)
    pack(rounded, kind)
    named = [(name, module) for name, module in part.named_modules() if isinstance(module, MergedLinearSlice)]
    shared = Counter(module.fused for _, module in named)
    assert sorted(shared.values()) == [2, 3]
    assert {name.rpartition(".")[2] for name, _ in named} == {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}
    assert not [module for module in rounded.modules() if isinstance(module, MergedLinearSlice)]


@pytest.mark.parametrize("name", ["int3", "", "INT8"])
def test_an_unknown_quantization_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(BadDevice, match=r"unknown; choose one of none, int8, int4"):
        resolve_quantization(name)
    with pytest.raises(BadDevice, match=r"unknown; choose one of none, int8, int4"):
        pack(nn.Linear(16, 4), name)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_rounding_on_another_device_is_refused_and_native_leaves_it_alone(kind: str) -> None:
    model = nn.Sequential(nn.Linear(16, 4, device="meta"))
    with pytest.raises(BadDevice, match=rf"{kind} weights run on the CPU only, the model is on meta: use none"):
        pack(model, kind)
    assert pack(model).n_linears == 0
    assert type(model[0]) is nn.Linear


def test_a_layer_whose_weight_the_model_reads_itself_stays_stock() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(16, 4)
            self.out = nn.Linear(16, 4)

        def forward(self, rows_RK: torch.Tensor) -> torch.Tensor:
            return self.out(rows_RK.to(self.router.weight.dtype))

    model = Reading().requires_grad_(False)
    pack(model)
    assert type(model.router) is nn.Linear
    assert isinstance(model.out, PackedLinear)


@pytest.mark.parametrize("kind", ["none", "int8", "int4"])
def test_a_model_of_linear_layers_alone_still_tells_its_dtype_and_device(kind: str) -> None:
    model = nn.Sequential(nn.Linear(16, 16, bias=False)).bfloat16().requires_grad_(False)
    pack(model, kind)
    first = next(model.parameters())
    assert (first.dtype, first.device.type) == (torch.bfloat16, "cpu")


@pytest.mark.parametrize("kind", ["none", "int8", "int4"])
def test_a_weight_of_4_bits_that_no_packed_layer_takes_becomes_numbers(kind: str) -> None:
    levels_NH = torch.randint(0, 256, (16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    packed = PackedInt4Weight(levels_NH, torch.full((16, 1), 0.25).half())
    model = nn.Sequential(nn.Embedding(16, 32), nn.Linear(32, 16)).requires_grad_(False)
    for layer in model:
        layer.weight = Int4Parameter.of(packed, torch.float32)
    pack(model, kind)
    assert type(model[0].weight) is nn.Parameter
    assert torch.equal(model[0].weight, packed.dequantized(torch.float32))
    assert (type(model[1]) is Int4Linear) == (kind == "int4")
    torch.testing.assert_close(model[1].weight, packed.dequantized(torch.float32), rtol=0.02, atol=0.02)
