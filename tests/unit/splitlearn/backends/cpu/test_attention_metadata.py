"""Shapes: T rows of all sessions, N rows that one holds, H heads, K heads of keys, d width of a head."""

import random

import pytest
import torch

from splitlearn.attention.kv_layout import KVLayout
from splitlearn.attention.params import AttentionParams
from splitlearn.backends.cpu.attention_metadata import AttentionMetadata, HeadNorms
from splitlearn.backends.cpu.contiguous_kv import ContiguousKVCache

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("every_set")


def session(n_kv_heads: int, width: int, held: int, seed: int) -> ContiguousKVCache:
    """Of two layers, whose rows are random and grow with the session, so that some scores stand out."""
    kv = ContiguousKVCache(KVLayout(((n_kv_heads, width),) * 4, torch.bfloat16, CPU))
    kv.reserve(0, held)
    dice = torch.Generator().manual_seed(seed)
    for view in kv.views(0, held):
        view.copy_(torch.randn(view.shape, generator=dice) * 2)
    return kv


def exact(query_Hd: torch.Tensor, kv: ContiguousKVCache, layer: int, start: int, scaling: float) -> torch.Tensor:
    """[H, d] in fp64."""
    keys, values = (view[:, start:].double() for view in kv.views(0, kv.n_rows)[2 * layer : 2 * layer + 2])
    shared = query_Hd.shape[0] // keys.shape[0]
    keys, values = (each.repeat_interleave(shared, 0) for each in (keys, values))
    weights_HN = torch.softmax((keys @ query_Hd.double()[:, :, None])[..., 0] * scaling, dim=-1)
    return (weights_HN[:, None] @ values)[:, 0]


def attended(table: AttentionMetadata | None, *arguments: object) -> torch.Tensor:
    assert table is not None
    *before, starts, scaling = arguments
    return table.attend(*before, torch.tensor(starts) if any(starts) else None, AttentionParams(scaling=scaling))


def close(found: torch.Tensor, expected: torch.Tensor, kv: ContiguousKVCache, layer: int, further: float = 0.0) -> None:
    """Weights are rounded to bf16, as torch rounds them, and what they give of values is rounded again."""
    atol = (2**-8 + further) * kv.views(0, kv.n_rows)[2 * layer + 1].abs().max().item()
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=atol)


@pytest.mark.parametrize("heads", [(14, 2), (4, 4), (9, 1), (32, 4)], ids=str)
@pytest.mark.parametrize("width", [8, 16, 24, 64, 80, 128])
def test_any_number_of_heads_and_any_width_is_rounded_once(heads: tuple[int, int], width: int) -> None:
    kvs = [session(heads[1], width, held, seed) for seed, held in enumerate((1, 15, 16, 17, 70))]
    query_HTd = torch.randn(heads[0], len(kvs), width, generator=torch.Generator().manual_seed(9)).bfloat16()
    table = AttentionMetadata.of([(kv, kv.n_rows - 1, 1) for kv in kvs])
    for layer in (0, 1):
        output_THd = attended(table, layer, query_HTd, [0] * len(kvs), None)
        for row, kv in enumerate(kvs):
            close(output_THd[row], exact(query_HTd[:, row], kv, layer, 0, width**-0.5), kv, layer)


def test_a_window_begins_where_it_is_said_to() -> None:
    kvs, starts = [session(2, 64, held, held) for held in (5, 40, 90)], [0, 39, 61]
    query_HTd = torch.randn(4, 3, 64, generator=torch.Generator().manual_seed(9)).bfloat16()
    output_THd = attended(AttentionMetadata.of([(kv, kv.n_rows - 1, 1) for kv in kvs]), 1, query_HTd, starts, 0.3)
    for row, (kv, start) in enumerate(zip(kvs, starts, strict=True)):
        close(output_THd[row], exact(query_HTd[:, row], kv, 1, start, 0.3), kv, 1)


@pytest.mark.parametrize("scale", [1e-3, 30.0, 3000.0])
def test_flat_scores_and_steep_ones_give_whole_weights(scale: float) -> None:
    kv, query_HTd = session(1, 64, 300, 0), torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(9)).bfloat16()
    output_THd = attended(AttentionMetadata.of([(kv, 299, 1)]), 0, query_HTd, [0], scale)
    # the dot products themselves are fp32, which steep scores make the most of
    expected_Hd = exact(query_HTd[:, 0], kv, 0, 0, scale)
    close(output_THd[0], expected_Hd, kv, 0, 1e-5 * scale)


def test_queries_may_lie_in_any_order() -> None:
    kvs = [session(2, 32, held, held) for held in (3, 33)]
    by_row_THd = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(9)).bfloat16()
    whole = [by_row_THd.transpose(0, 1), by_row_THd.permute(1, 0, 2).contiguous()]
    across = torch.stack([by_row_THd.transpose(0, 1)] * 2, dim=-1)[..., 0]
    table = AttentionMetadata.of([(kv, kv.n_rows - 1, 1) for kv in kvs])
    outputs = [attended(table, 0, query_HTd, [0, 0], None) for query_HTd in (*whole, across)]
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_a_row_comes_out_the_same_to_the_bit_whoever_shares_the_step() -> None:
    kvs = [session(2, 64, held, held) for held in (3, 50, 200)]
    query_HTd = torch.randn(14, 3, 64, generator=torch.Generator().manual_seed(9)).bfloat16()
    together = attended(AttentionMetadata.of([(kv, kv.n_rows - 1, 1) for kv in kvs]), 0, query_HTd, [0] * 3, None)
    for row, kv in enumerate(kvs):
        alone = attended(AttentionMetadata.of([(kv, kv.n_rows - 1, 1)]), 0, query_HTd[:, row : row + 1], [0], None)
        assert torch.equal(alone[0], together[row])


def test_new_rows_are_put_behind_those_that_are_held_and_nothing_else_is_touched() -> None:
    kvs = [session(2, 16, held, held) for held in (4, 70)]
    before = [[view.clone() for view in kv.views(0, kv.n_rows)] for kv in kvs]
    for kv, position, count in (work := [(kvs[0], 4, 3), (kvs[1], 60, 1)]):
        kv.reserve(position, count)
    table = AttentionMetadata.of(work)
    assert table is not None
    rows_KTd = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(9)).bfloat16().transpose(0, 1)
    table.store(2, rows_KTd)
    for kv, old, (_, position, count), new in zip(kvs, before, work, rows_KTd.split([3, 1], 1), strict=True):
        found = kv.views(0, position + count)
        assert torch.equal(found[2][:, position:], new)
        assert all(torch.equal(view[:, :position], was[:, :position]) for view, was in zip(found, old, strict=True))


@pytest.mark.parametrize(
    "layout",
    [KVLayout(((2, 8),) * 2, torch.float32, CPU), KVLayout(((2, 8), (2, 6)), torch.bfloat16, CPU)],
    ids=["fp32", "unlike shapes"],
)
def test_what_the_kernels_do_not_read_has_no_table(layout: KVLayout) -> None:
    kv = ContiguousKVCache(layout)
    kv.reserve(0, 1)
    assert AttentionMetadata.of([(kv, 0, 1)]) is None


def exact_prompt(
    query_HTd: torch.Tensor, kv: ContiguousKVCache, layer: int, scaling: float | None = None
) -> torch.Tensor:
    """[T, H, d] in fp64."""
    position = kv.n_rows - query_HTd.shape[1]
    keys, values = (view.double() for view in kv.views(0, kv.n_rows)[2 * layer : 2 * layer + 2])
    shared = query_HTd.shape[0] // keys.shape[0]
    keys, values = (each.repeat_interleave(shared, 0) for each in (keys, values))
    scores_HTN = query_HTd.double() @ keys.transpose(1, 2) * (scaling or query_HTd.shape[2] ** -0.5)
    hidden_TN = torch.ones(scores_HTN.shape[1:], dtype=torch.bool).triu(position + 1)
    return (torch.softmax(scores_HTN.masked_fill(hidden_TN, float("-inf")), -1) @ values).transpose(0, 1)


@pytest.mark.parametrize("heads", [(14, 2), (4, 4), (9, 1)], ids=str)
@pytest.mark.parametrize("width", [6, 16, 24, 64, 80])
@pytest.mark.parametrize(("held", "new"), [(0, 2), (0, 33), (31, 14), (32, 15), (100, 70)])
def test_rows_of_a_prompt_see_what_is_before_them(heads: tuple[int, int], width: int, held: int, new: int) -> None:
    other, kv = session(heads[1], width, 9, 5), session(heads[1], width, held + new, 6)
    query_HTd = torch.randn(heads[0], 1 + new, width, generator=torch.Generator().manual_seed(9)).bfloat16()
    table = AttentionMetadata.of([(other, 8, 1), (kv, held, new)])
    for layer in (0, 1):
        output_THd = attended(table, layer, query_HTd, [], None)
        close(output_THd[:1], exact_prompt(query_HTd[:, :1], other, layer), other, layer)
        close(output_THd[1:], exact_prompt(query_HTd[:, 1:], kv, layer), kv, layer)


@pytest.mark.parametrize("scaling", [1e-3, 0.2, 3.0])
@pytest.mark.parametrize(("held", "new"), [(510, 1100), (511, 2), (1020, 9), (1536, 300)])
def test_rows_of_a_long_prompt_see_all_that_is_before_them(held: int, new: int, scaling: float) -> None:
    """Keys are looked at in tiles of 512; rows at a border see one of them in part, or not at all."""
    kv = session(2, 32, held + new, 6)
    kv.views(0, held + new)[0][:, 700:705] *= 4
    query_HTd = torch.randn(6, new, 32, generator=torch.Generator().manual_seed(9)).bfloat16()
    table = AttentionMetadata.of([(kv, held, new)])
    output_THd = attended(table, 0, query_HTd, [], scaling)
    # dot products are fp32, which steep scores make the most of
    close(output_THd, exact_prompt(query_HTd, kv, 0, scaling), kv, 0, 1e-3 * scaling)


def scored(
    query_HTd: torch.Tensor, kv: ContiguousKVCache, starts_T: torch.Tensor, params: AttentionParams
) -> torch.Tensor:
    """What rows at the end of a session see in its layer 0 from their starts on, [T, H, d] in fp64."""
    heads, count, width = query_HTd.shape
    keys, values = (view.double().repeat_interleave(heads // view.shape[0], 0) for view in kv.views(0, kv.n_rows)[:2])
    scores_HTN = query_HTd.double() @ keys.transpose(1, 2) * (params.scaling or width**-0.5)
    if params.softcap is not None:
        scores_HTN = torch.tanh(scores_HTN / params.softcap) * params.softcap
    rows_N, limits_T = torch.arange(kv.n_rows), torch.arange(kv.n_rows - count, kv.n_rows) + 1
    is_seen_TN = (rows_N >= starts_T[:, None]) & (rows_N < limits_T[:, None])
    scores_HTN = scores_HTN.masked_fill(~is_seen_TN, float("-inf"))
    if params.sinks is not None:
        scores_HTN = torch.cat([scores_HTN, params.sinks.double()[:, None, None].expand(-1, count, 1)], -1)
    return (torch.softmax(scores_HTN, -1)[..., : kv.n_rows] @ values).transpose(0, 1)


SINKS_8 = torch.tensor([-2.0, 0.0, 1.0, 3.0, 9.0, -9.0, 0.5, 2.0])
PARAMS = [
    AttentionParams(),
    AttentionParams(scaling=0.3),
    AttentionParams(scaling=0.3, softcap=4.0),
    AttentionParams(sinks=SINKS_8),
]


@pytest.mark.parametrize("params", PARAMS, ids=["plain", "scaled", "capped", "sinks"])
@pytest.mark.parametrize("window", [1, 40, 513, 2000])
@pytest.mark.parametrize(("held", "new"), [(0, 70), (500, 30), (1000, 90), (1023, 1), (1024, 1)])
def test_rows_see_a_window_with_capped_scores_and_sinks(
    held: int, new: int, window: int, params: AttentionParams
) -> None:
    kv, dice = session(2, 24, held + new, 6), torch.Generator().manual_seed(9)
    query_HTd = torch.randn(8, new, 24, generator=dice).bfloat16()
    starts_T = (torch.arange(held + 1, held + new + 1) - window).clamp(min=0)
    table = AttentionMetadata.of([(kv, held, new)])
    assert table is not None
    close(table.attend(0, query_HTd, starts_T, params), scored(query_HTd, kv, starts_T, params), kv, 0, 1e-3)


@pytest.mark.parametrize("heads", [(14, 2), (4, 4), (8, 1), (40, 2)], ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_a_row_comes_out_the_same_to_the_bit_however_its_prompt_is_cut_and_beside_whom(
    heads: tuple[int, int], seed: int
) -> None:
    """Of a session of 1100 rows the last 200 are call, in one call and in pieces, alone and beside others."""
    dice = random.Random(seed)
    width, first, last = dice.choice([6, 16, 64, 80]), 900, 1100
    kv = session(heads[1], width, last, 6)
    sinks_H = torch.linspace(-3, 3, heads[0]) if dice.random() < 0.5 else None
    params = AttentionParams(None, dice.choice([None, 0.4]), dice.choice([None, 5.0]), sinks_H)
    limits_T = torch.arange(first, last) + 1
    window, chunk = dice.choice([3, 64, 100, 600, 2000]), dice.choice([100, 512])
    starts_T = dice.choice([None, (limits_T - window).clamp(min=0), (limits_T - 1) // chunk * chunk])
    query_HTd = torch.randn(heads[0], last - first, width, generator=torch.Generator().manual_seed(9)).bfloat16()
    whole = AttentionMetadata.of([(kv, first, last - first)])
    assert whole is not None
    expected_THd = whole.attend(0, query_HTd, starts_T, params)
    position = first
    while position < last:
        count = min(dice.choice([1, 1, 1, 2, 3, 15, 60]), last - position)
        others = [session(heads[1], width, dice.randint(5, 600), n) for n in range(dice.randrange(3))]
        works = [(other, other.n_rows - n, n) for other in others for n in [dice.choice([1, 1, 4])]]
        at = dice.randint(0, len(works))
        works.insert(at, (kv, position, count))
        before, total = sum(n for _, _, n in works[:at]), sum(n for _, _, n in works)
        asked_HTd = torch.randn(heads[0], total, width, generator=torch.Generator().manual_seed(1)).bfloat16()
        asked_HTd[:, before : before + count] = query_HTd[:, position - first : position - first + count]
        asked_T = None if starts_T is None else torch.zeros(total, dtype=torch.int64)
        if asked_T is not None and starts_T is not None:
            asked_T[before : before + count] = starts_T[position - first : position - first + count]
        table = AttentionMetadata.of(works)
        assert table is not None
        found_THd = table.attend(0, asked_HTd, asked_T, params)[before : before + count]
        assert torch.equal(found_THd, expected_THd[position - first : position - first + count]), position
        position += count


def test_rows_that_a_session_has_room_for_but_never_wrote_are_not_read() -> None:
    kv, clean = (ContiguousKVCache(KVLayout(((2, 16),) * 2, torch.bfloat16, CPU), 64) for _ in range(2))
    for each, fill in ((kv, float("nan")), (clean, 0.0)):
        each.reserve(0, 64)
        for view in each.views(0, 64):
            view.fill_(fill)
        each.reserve(0, 37)
        for view in each.views(0, 37):
            view.copy_(torch.randn(view.shape, generator=torch.Generator().manual_seed(3)))
    query_HTd = torch.randn(4, 37, 16, generator=torch.Generator().manual_seed(9)).bfloat16()
    for count in (1, 2, 5, 37):
        poisoned, other = (AttentionMetadata.of([(each, 37 - count, count)]) for each in (kv, clean))
        assert poisoned is not None
        assert other is not None
        rows = query_HTd[:, :count]
        assert torch.equal(poisoned.attend(0, rows, None, PARAMS[0]), other.attend(0, rows, None, PARAMS[0]))


def norm(rows: torch.Tensor, weight_d: torch.Tensor, epsilon: float, unit_offset: bool) -> torch.Tensor:
    normed = rows.float() * torch.rsqrt(rows.float().square().mean(-1, keepdim=True) + epsilon)
    return (normed * (1 + weight_d.float())).bfloat16() if unit_offset else normed.bfloat16() * weight_d


def turned(rows_HTd: torch.Tensor, cosines_Tn: torch.Tensor, sines_Tn: torch.Tensor) -> torch.Tensor:
    """As transformers spells it out."""
    turns, rest = rows_HTd.split([cosines_Tn.shape[1], rows_HTd.shape[2] - cosines_Tn.shape[1]], -1)
    first, second = turns.chunk(2, -1)
    return torch.cat([turns * cosines_Tn + torch.cat([-second, first], -1) * sines_Tn, rest], -1)


@pytest.mark.parametrize("unit_offset", [None, False, True], ids=["no norm", "norm", "norm that adds one"])
@pytest.mark.parametrize("n_turned", [0, 2, 24, 40])
@pytest.mark.parametrize("heads", [(4, 2), (3, 1), (40, 8)], ids=str)
def test_heads_are_normed_and_rotated_and_put_where_their_sessions_keep_them(
    heads: tuple[int, int], n_turned: int, unit_offset: bool | None
) -> None:
    width, held, new = 40, (4, 70, 0), (3, 1, 20)
    kvs = [session(heads[1], width, max(1, count), count) for count in held]
    before = [[view.clone() for view in kv.views(0, kv.n_rows)] for kv in kvs]
    for kv, position, count in (work := list(zip(kvs, held, new, strict=True))):
        kv.reserve(position, count)
    dice = torch.Generator().manual_seed(9)
    rows_TN = torch.randn(sum(new), (heads[0] + 2 * heads[1]) * width, generator=dice).bfloat16()
    angles_Tn = torch.randn(sum(new), n_turned, generator=dice)
    # cosines in one piece, sines not
    both = angles_Tn.cos().bfloat16()[None], angles_Tn.sin().bfloat16().t().contiguous().t()[None]
    turns = both if n_turned else None
    by_head = rows_TN.unflatten(1, (-1, width)).transpose(0, 1).clone()
    queries, keys, values = by_head.split([heads[0], heads[1], heads[1]])
    norms = None
    if unit_offset is not None:
        weights = [torch.rand(width, generator=dice).bfloat16() + 0.5 for _ in range(2)]
        norms = HeadNorms(*weights, 1e-5, unit_offset)
        queries, keys = norm(queries, weights[0], 1e-5, unit_offset), norm(keys, weights[1], 1e-5, unit_offset)
    if turns is not None:
        queries, keys = (turned(each, turns[0][0], turns[1][0]) for each in (queries, keys))
    table = AttentionMetadata.of(work)
    assert table is not None
    torch.testing.assert_close(table.rope_and_store(1, rows_TN, turns, norms), queries, rtol=2**-7, atol=2**-8)
    spans = zip(kvs, before, held, keys.split(new, 1), values.split(new, 1), strict=True)
    for kv, old, position, own_keys, own_values in spans:
        found = kv.views(0, kv.n_rows)
        torch.testing.assert_close(found[2][:, position:], own_keys, rtol=2**-7, atol=2**-8)
        assert torch.equal(found[3][:, position:], own_values)
        assert all(torch.equal(view[:, :position], was[:, :position]) for view, was in zip(found, old, strict=True))


@pytest.mark.parametrize(
    ("n_projected", "n_attended", "norm_width", "takes"),
    [(64, 32, None, True), (64, 32, 8, True), (64, 32, 32, False), (56, 24, None, False), (72, 32, None, False)],
    ids=["heads", "normed one by one", "normed at once", "keys shared unevenly", "something more"],
)
def test_rows_are_taken_where_they_are_heads_and_nothing_else(
    n_projected: int, n_attended: int, norm_width: int | None, takes: bool
) -> None:
    table = AttentionMetadata.of([(session(2, 8, 1, 0), 0, 1)])
    assert table is not None
    norms = None if norm_width is None else HeadNorms(*[torch.ones(norm_width).bfloat16()] * 2, 1e-5, unit_offset=False)
    assert table.supports(n_projected, n_attended, norms) is takes


def test_turns_are_taken_as_cosines_and_sines_of_whole_pairs_in_bf16() -> None:
    table = AttentionMetadata.of([(session(2, 8, 1, 0), 0, 1)])
    assert table is not None
    good = torch.zeros(1, 3, 6).bfloat16()
    assert table.supports_rope((good, good))
    others = [good.float(), good[0], good[..., :5], torch.zeros(1, 3, 10).bfloat16(), good.expand(2, 3, 6), None]
    assert not any(table.supports_rope((other, other)) for other in others)
    assert not table.supports_rope((good, good[:, :2]))
    assert not table.supports_rope(good)
