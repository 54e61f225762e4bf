"""Shapes: T rows of all sessions, N rows that one holds, H heads, K heads of keys, d width of a head."""

import pytest
import torch

from splitlearn.kernels import kernels
from splitlearn.kv.store import KVLayout, SessionKV
from splitlearn.kv.table import SessionTable

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(kernels() is None, reason="no C compiler at installation, or no AVX-512 BF16")


def session(n_kv_heads: int, width: int, held: int, seed: int) -> SessionKV:
    """Of two layers, whose rows are random and grow with the session, so that some scores stand out."""
    kv = SessionKV(KVLayout(((n_kv_heads, width),) * 4, torch.bfloat16, CPU))
    kv.place(0, held)
    dice = torch.Generator().manual_seed(seed)
    for view in kv.views(0, held):
        view.copy_(torch.randn(view.shape, generator=dice) * 2)
    return kv


def exact(query_Hd: torch.Tensor, kv: SessionKV, layer: int, start: int, scaling: float) -> torch.Tensor:
    """[H, d] in fp64."""
    keys, values = (view[:, start:].double() for view in kv.views(0, kv.n_rows)[2 * layer : 2 * layer + 2])
    shared = query_Hd.shape[0] // keys.shape[0]
    keys, values = (each.repeat_interleave(shared, 0) for each in (keys, values))
    weights_HN = torch.softmax((keys @ query_Hd.double()[:, :, None])[..., 0] * scaling, dim=-1)
    return (weights_HN[:, None] @ values)[:, 0]


def attended(table: SessionTable | None, *arguments: object) -> torch.Tensor:
    assert table is not None
    return table.attend(*arguments)


def close(found_Hd: torch.Tensor, expected_Hd: torch.Tensor) -> None:
    torch.testing.assert_close(found_Hd.double(), expected_Hd, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("heads", [(14, 2), (4, 4), (9, 1), (32, 4)], ids=str)
@pytest.mark.parametrize("width", [8, 16, 24, 64, 80, 128])
def test_any_number_of_heads_and_any_width_is_rounded_once(heads: tuple[int, int], width: int) -> None:
    kvs = [session(heads[1], width, held, seed) for seed, held in enumerate((1, 15, 16, 17, 70))]
    query_HTd = torch.randn(heads[0], len(kvs), width, generator=torch.Generator().manual_seed(9)).bfloat16()
    table = SessionTable.of([(kv, kv.n_rows - 1, 1) for kv in kvs])
    for layer in (0, 1):
        output_THd = attended(table, layer, query_HTd, [0] * len(kvs), None)
        for row, kv in enumerate(kvs):
            close(output_THd[row], exact(query_HTd[:, row], kv, layer, 0, width**-0.5))


def test_a_window_begins_where_it_is_said_to() -> None:
    kvs, starts = [session(2, 64, held, held) for held in (5, 40, 90)], [0, 39, 61]
    query_HTd = torch.randn(4, 3, 64, generator=torch.Generator().manual_seed(9)).bfloat16()
    output_THd = attended(SessionTable.of([(kv, kv.n_rows - 1, 1) for kv in kvs]), 1, query_HTd, starts, 0.3)
    for row, (kv, start) in enumerate(zip(kvs, starts, strict=True)):
        close(output_THd[row], exact(query_HTd[:, row], kv, 1, start, 0.3))


@pytest.mark.parametrize("scale", [1e-3, 30.0, 3000.0])
def test_flat_scores_and_steep_ones_give_whole_weights(scale: float) -> None:
    kv, query_HTd = session(1, 64, 300, 0), torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(9)).bfloat16()
    output_THd = attended(SessionTable.of([(kv, 299, 1)]), 0, query_HTd, [0], scale)
    # the dot products themselves are fp32, which steep scores make the most of
    expected_Hd = exact(query_HTd[:, 0], kv, 0, 0, scale)
    torch.testing.assert_close(output_THd[0].double(), expected_Hd, rtol=2**-8, atol=1e-4 * max(1, scale / 10))


def test_queries_may_lie_in_any_order() -> None:
    kvs = [session(2, 32, held, held) for held in (3, 33)]
    by_row_THd = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(9)).bfloat16()
    whole = [by_row_THd.transpose(0, 1), by_row_THd.permute(1, 0, 2).contiguous()]
    across = torch.stack([by_row_THd.transpose(0, 1)] * 2, dim=-1)[..., 0]
    table = SessionTable.of([(kv, kv.n_rows - 1, 1) for kv in kvs])
    outputs = [attended(table, 0, query_HTd, [0, 0], None) for query_HTd in (*whole, across)]
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_a_row_comes_out_the_same_to_the_bit_whoever_shares_the_step() -> None:
    kvs = [session(2, 64, held, held) for held in (3, 50, 200)]
    query_HTd = torch.randn(14, 3, 64, generator=torch.Generator().manual_seed(9)).bfloat16()
    together = attended(SessionTable.of([(kv, kv.n_rows - 1, 1) for kv in kvs]), 0, query_HTd, [0] * 3, None)
    for row, kv in enumerate(kvs):
        alone = attended(SessionTable.of([(kv, kv.n_rows - 1, 1)]), 0, query_HTd[:, row : row + 1], [0], None)
        assert torch.equal(alone[0], together[row])


def test_new_rows_are_put_behind_those_that_are_held_and_nothing_else_is_touched() -> None:
    kvs = [session(2, 16, held, held) for held in (4, 70)]
    before = [[view.clone() for view in kv.views(0, kv.n_rows)] for kv in kvs]
    for kv, position, count in (work := [(kvs[0], 4, 3), (kvs[1], 60, 1)]):
        kv.place(position, count)
    table = SessionTable.of(work)
    assert table is not None
    rows_KTd = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(9)).bfloat16().transpose(0, 1)
    table.keep(2, rows_KTd)
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
    kv = SessionKV(layout)
    kv.place(0, 1)
    assert SessionTable.of([(kv, 0, 1)]) is None


def exact_prompt(query_HTd: torch.Tensor, kv: SessionKV, layer: int) -> torch.Tensor:
    """[T, H, d] in fp64."""
    position = kv.n_rows - query_HTd.shape[1]
    keys, values = (view.double() for view in kv.views(0, kv.n_rows)[2 * layer : 2 * layer + 2])
    shared = query_HTd.shape[0] // keys.shape[0]
    keys, values = (each.repeat_interleave(shared, 0) for each in (keys, values))
    scores_HTN = query_HTd.double() @ keys.transpose(1, 2) * query_HTd.shape[2] ** -0.5
    hidden_TN = torch.ones(scores_HTN.shape[1:], dtype=torch.bool).triu(position + 1)
    return (torch.softmax(scores_HTN.masked_fill(hidden_TN, float("-inf")), -1) @ values).transpose(0, 1)


@pytest.mark.parametrize("heads", [(14, 2), (4, 4), (9, 1)], ids=str)
@pytest.mark.parametrize("width", [6, 16, 24, 64, 80])
@pytest.mark.parametrize(("held", "new"), [(0, 2), (0, 33), (31, 14), (32, 15), (100, 70)])
def test_rows_of_a_prompt_see_what_is_before_them(heads: tuple[int, int], width: int, held: int, new: int) -> None:
    other, kv = session(heads[1], width, 9, 5), session(heads[1], width, held + new, 6)
    query_HTd = torch.randn(heads[0], 1 + new, width, generator=torch.Generator().manual_seed(9)).bfloat16()
    table = SessionTable.of([(other, 8, 1), (kv, held, new)])
    for layer in (0, 1):
        output_THd = attended(table, layer, query_HTd, [0, 0], None)
        first = output_THd[0].clone()
        assert table is not None
        table.attend_prompt(layer, 1, query_HTd, output_THd, None)
        # the weights of a prompt's rows are rounded to bf16, as torch rounds them
        bound = 2**-7 * kv.views(0, kv.n_rows)[2 * layer + 1].abs().max().item()
        expected_THd = exact_prompt(query_HTd[:, 1:], kv, layer)
        torch.testing.assert_close(output_THd[1:].double(), expected_THd, rtol=2**-7, atol=bound)
        assert torch.equal(output_THd[0], first)
