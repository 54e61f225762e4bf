"""Calls of every kernel, with shapes that fill its blocks and panels and with shapes that do not.

Shapes: R rows, K inputs, N outputs, H heads, G heads of keys, d head size, C rows that a session has room for.
"""

import ctypes
import itertools
from collections.abc import Iterator, Sequence

import torch

from splitlearn.backends.cpu.kernels.structs import (
    AttendCall,
    Descriptor,
    ExpertsCall,
    Gate,
    GateCall,
    Layer,
    Layers,
    LayersCall,
    LinearCall,
    RmsNormCall,
    RopeAndStoreCall,
    RowNorm,
    Session,
    SoftmaxParams,
    StoreCall,
)
from splitlearn.backends.cpu.linear import NativeInt4Linear, NativeInt8Linear, NativeLinear
from splitlearn.backends.cpu.linear.int4 import Int4Weight
from splitlearn.backends.cpu.linear.stacked import StackedLinear
from tests.neon.memory_image import Call

# both within half a unit in the last place of bf16, and what sums lose in fp32
SUM = (2**-7, 2e-5)
# what the tests of x86 allow
ATTENTION, LAYER = (2**-7, 2**-7), (2**-6, 2**-6)
Module = NativeLinear | NativeInt8Linear | NativeInt4Linear
Kind = type[Module]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).bfloat16()


def linear(kind: Kind, rows_RK: torch.Tensor, n_outputs: int, bias: bool = False) -> Call:
    """By a random weight."""
    weight_NK = random(n_outputs, rows_RK.shape[1], seed=1)
    return multiplied(kind(weight_NK, random(n_outputs, seed=2) if bias else None), rows_RK)


def multiplied(module: Module, rows_RK: torch.Tensor) -> Call:
    (n_rows, n_inputs), kind = rows_RK.shape, type(module)
    outputs_RN, held = torch.zeros(n_rows, module.out_features).bfloat16(), module.descriptor
    addresses = rows_RK.data_ptr(), outputs_RN.data_ptr()
    structure = LinearCall(*addresses, n_rows, n_inputs, held.structure, 1)
    return Call("linear", structure, (rows_RK, outputs_RN, *held.tensors), SUM if kind is NativeLinear else None)


def linears() -> Iterator[Call]:
    """Any height of a block, one and two panels, and rows of more inputs than are summed at once."""
    kinds = NativeLinear, NativeInt8Linear, NativeInt4Linear
    for kind, n_rows in itertools.product(kinds, (1, 2, 3, 4, 5, 6, 7, 13)):
        for n_outputs in (1, 16, 17, 33, 48):
            yield linear(kind, random(n_rows, 82, seed=n_rows), n_outputs, bias=n_outputs % 2 == 1)
        yield linear(kind, random(n_rows, 1100, seed=n_rows), 32)
    yield linear(NativeLinear, random(9, 2048, seed=3), 20)
    yield linear(NativeInt8Linear, torch.ones(2, 2**16).bfloat16(), 16)
    for kind in (NativeInt8Linear, NativeInt4Linear):
        yield linear(kind, torch.zeros(2, 36).bfloat16(), 16, bias=True)
    # zero points, groups of several blocks, and the greatest sums
    levels_NK, dice = torch.full((33, 160), 15, dtype=torch.uint8), torch.Generator().manual_seed(4)
    levels_NK[:30] = torch.randint(0, 16, (30, 160), dtype=torch.uint8, generator=dice)
    zero_NG = torch.randint(0, 16, (33, 3), generator=dice).half()
    weight = Int4Weight(levels_NK, random(33, 3).half(), zero_NG, 64)
    rows_RK = torch.cat([torch.ones(1, 160).bfloat16(), -torch.ones(1, 160).bfloat16(), random(3, 160, seed=5)])
    yield multiplied(NativeInt4Linear(weight, random(33, seed=2)), rows_RK)


def norms() -> Iterator[Call]:
    for width, unit_offset in itertools.product((1, 15, 16, 17, 64, 200), (0, 1)):
        rows, weight = random(3, width), random(width, seed=1)
        outputs = torch.zeros_like(rows)
        norm = RowNorm(weight.data_ptr(), 1e-5, unit_offset)
        structure = RmsNormCall(rows.data_ptr(), outputs.data_ptr(), 3, width, norm, 1)
        yield Call("rms_norm", structure, (rows, outputs, weight))


def gates() -> Iterator[Call]:
    special = torch.tensor([0.0, -0.0, 3e38, -3e38, 1e-30, 1e-40, float("inf"), -float("inf"), float("nan")])
    gates = torch.cat([torch.linspace(-200, 200, 1001), torch.linspace(-4, 4, 999), special]).bfloat16()
    for is_gelu in (False, True):
        rows, outputs = random(len(gates)), torch.zeros_like(gates)
        addresses = gates.data_ptr(), rows.data_ptr(), outputs.data_ptr()
        structure = GateCall(*addresses, 1, len(gates), len(gates), Gate.plain(is_gelu), 1)
        yield Call("gate", structure, (gates, rows, outputs))


def levels(numbers: torch.Tensor) -> torch.Tensor:
    """Rows as 8-bit levels that fill whole vectors, and their scales."""
    scale = numbers.float().abs().amax(-1, keepdim=True) / 127
    rounded = (numbers.float() / scale).round().to(torch.int8)
    filled = torch.nn.functional.pad(rounded, (0, -numbers.shape[-1] % 16))
    return torch.cat([filled.view(torch.uint8), scale.view(torch.uint8)], -1)


class Sessions:
    """Rows of several sessions: (held before, new)."""

    def __init__(
        self, rows: Sequence[tuple[int, int]], n_kv_heads: int, width: int, layers: int = 1, is_int8: bool = False
    ) -> None:
        self.n_rows = sum(new for _, new in rows)
        self.blocks, self.structures = [], (Session * len(rows))()
        first = 0
        for i, (before, new) in enumerate(rows):
            capacity = before + new
            block = random(2 * layers, n_kv_heads, capacity, width, seed=10 + i)
            if is_int8:
                block = levels(block)
            self.blocks.append(block)
            strides, row_bytes = (block.stride(0), block.stride(1)), block.shape[3] if is_int8 else 0
            self.structures[i] = Session(block.data_ptr(), *strides, row_bytes, capacity, new, first)
            first += new

    @property
    def addressed(self) -> tuple[int, int]:
        return ctypes.addressof(self.structures), len(self.structures)

    @property
    def held(self) -> tuple[object, ...]:
        return self.structures, *self.blocks


ROWS = ((0, 5), (7, 1), (20, 3))


def stored() -> Iterator[Call]:
    shapes = ((16, 16, 1), (24, 16, 0), (80, 80, 1), (64, 0, 0))
    for (width, rotary, has_norms), is_int8 in itertools.product(shapes, (False, True)):
        sessions, n_heads, n_kv_heads = Sessions(ROWS, 2, width, is_int8=is_int8), 4, 2
        rows = random(sessions.n_rows, (n_heads + 2 * n_kv_heads) * width)
        cosines, sines = random(sessions.n_rows, max(rotary, 1)), random(sessions.n_rows, max(rotary, 1), seed=1)
        weights = random(2, width, seed=2)
        norms = [RowNorm(weights[i].data_ptr() if has_norms else None, 1e-6, 0) for i in range(2)]
        sizes = sessions.n_rows, n_heads, n_kv_heads, width
        turns = cosines.data_ptr(), sines.data_ptr(), rotary
        structure = RopeAndStoreCall(*sessions.addressed, 0, rows.data_ptr(), *sizes, *turns, *norms, 1)
        yield Call("rope_and_store", structure, (*sessions.held, rows, cosines, sines, weights))
    for is_int8 in (False, True):
        sessions, rows = Sessions(ROWS, 2, 24, is_int8=is_int8), random(2, 9, 24, seed=3)
        structure = StoreCall(*sessions.addressed, 1, rows.data_ptr(), 9 * 24, 24, 2, 24)
        yield Call("store", structure, (*sessions.held, rows))


def attend(
    rows: Sequence[tuple[int, int]],
    heads: tuple[int, int] = (4, 2),
    width: int = 64,
    starts: Sequence[int] = (),
    sinks: bool = False,
    softcap: float = 0.0,
    queries: torch.Tensor | None = None,
    is_int8: bool = False,
) -> Call:
    """`queries`: [R, H, d]; others than random ones."""
    sessions, (n_heads, n_kv_heads) = Sessions(rows, heads[1], width, is_int8=is_int8), heads
    queries_RHd = random(sessions.n_rows, n_heads, width, seed=5) if queries is None else queries
    outputs_RHd, sinks_H = torch.zeros_like(queries_RHd), torch.linspace(-1, 2, n_heads)
    starts_R = torch.tensor(starts or [0])
    params = SoftmaxParams(sinks_H.data_ptr() if sinks else None, width**-0.5, softcap)
    strides = width, n_heads * width
    structure = AttendCall(
        *sessions.addressed, 0, starts_R.data_ptr() if starts else None, queries_RHd.data_ptr(), *strides,
        outputs_RHd.data_ptr(), n_heads, n_kv_heads, width, params, 1,
    )  # fmt: skip
    return Call("attend", structure, (*sessions.held, queries_RHd, outputs_RHd, sinks_H, starts_R), ATTENTION)


def attentions() -> Iterator[Call]:
    """Few rows and many, of short sessions and of those that fill more than one tile of keys."""
    for heads, width in itertools.product(((14, 2), (4, 4), (9, 1)), (8, 16, 24, 64, 80, 128)):
        yield attend(ROWS, heads, width)
    yield attend(((0, 40), (700, 1), (505, 20)))
    for width in (24, 64):
        yield attend(((0, 40), (700, 1), (505, 20)), width=width, is_int8=True)
    yield attend(((0, 40), (60, 2)), starts=[max(0, row - 9) for row in range(40)] + [33, 34])
    yield attend(((0, 9), (530, 2)), sinks=True)
    yield attend(((0, 9), (30, 2)), softcap=5.0)


def layers(kind: Kind, is_gelu: bool, has_post_norms: bool) -> Call:
    hidden, inner, n_heads, n_kv_heads, width, n_layers = 64, 96, 4, 2, 16, 2
    sessions = Sessions(ROWS, n_kv_heads, width, n_layers)
    descriptors, held = [], []
    for index in range(n_layers):
        sizes = {
            "qkv_proj": ((n_heads + 2 * n_kv_heads) * width, hidden),
            "o_proj": (hidden, n_heads * width),
            "gate_up_proj": (2 * inner, hidden),
            "down_proj": (hidden, inner),
        }
        linears = {name: kind(random(*size, seed=20 + index, scale=0.2)).descriptor for name, size in sizes.items()}
        weights = random(4, hidden, seed=30 + index)
        names = ("pre_attention_norm", "pre_mlp_norm", "post_attention_norm", "post_mlp_norm")[
            : 4 if has_post_norms else 2
        ]
        layer = Layer(
            **{name: each.structure for name, each in linears.items()},
            **{name: RowNorm(weights[i].data_ptr(), 1e-5, 0) for i, name in enumerate(names)},
            index=index, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=width,
            attention=SoftmaxParams(None, width**-0.5, 0.0), uses_rope=index == 0, gate=Gate.plain(is_gelu),
        )  # fmt: skip
        tensors = (weights, *itertools.chain.from_iterable(each.tensors for each in linears.values()))
        descriptors.append(Descriptor(layer, tensors))
        held += [layer, *tensors]
    table = Layers(descriptors)
    rows, turns = random(sessions.n_rows, hidden, seed=6), random(2, sessions.n_rows, width, seed=7)
    outputs = torch.zeros_like(rows)
    structure = LayersCall(
        table.address, n_layers, *sessions.addressed, None, turns[0].data_ptr(), turns[1].data_ptr(), width,
        rows.data_ptr(), outputs.data_ptr(), sessions.n_rows, 1,
    )  # fmt: skip
    return Call("layers", structure, (table._addresses, *sessions.held, rows, outputs, turns, *held), LAYER)


def whole_layers() -> Iterator[Call]:
    for kind, is_gelu, has_post_norms in itertools.product(
        (NativeLinear, NativeInt8Linear, NativeInt4Linear), (False, True), (False, True)
    ):
        yield layers(kind, is_gelu, has_post_norms)


def experts() -> Iterator[Call]:
    """Of which one is chosen by no row, and one row chooses none."""
    width, inner, n_experts = 64, 48, 5
    choices_RC = torch.tensor([[0, 3], [3, 1], [5, 5], [1, 0], [3, 4], [3, 0], [1, 3]])
    shares_RC = torch.rand(choices_RC.shape, generator=torch.Generator().manual_seed(4))
    for kind in (NativeLinear, NativeInt8Linear, NativeInt4Linear):
        up, down = (
            StackedLinear(
                kind,
                ((random(*size, seed=seed + i, scale=0.3), random(size[0], seed=9)) for i in range(n_experts)),
                n_experts,
            )
            for seed, size in ((20, (2 * inner, width)), (30, (width, inner)))
        )
        rows_RD = random(len(choices_RC), width, seed=6)
        outputs_RD = torch.zeros_like(rows_RD)
        held = rows_RD, choices_RC, shares_RC, outputs_RD
        addresses = (tensor.data_ptr() for tensor in held)
        sizes = *choices_RC.shape, n_experts
        structure = ExpertsCall(*addresses, *sizes, up.structure, down.structure, Gate.plain(False), 1)
        yield Call("experts", structure, (*held, *up.tensors, *down.tensors), LAYER)


KERNELS = {
    "linear": linears,
    "rms_norm": norms,
    "gate": gates,
    "rope_and_store": stored,
    "attend": attentions,
    "experts": experts,
    "layers": whole_layers,
}
