import copy

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from cleangpt.data.batches import Batch
from cleangpt.distillation.blocks import Blocks
from cleangpt.errors import BlockMapError, EmptyDataError
from cleangpt.evaluation.hidden_errors import block_errors, hidden_states, row_errors

TEXT = [Batch(torch.randint(12, (8, 16), generator=torch.Generator().manual_seed(n))) for n in range(6)]


def test_the_states_are_those_that_blocks_learn_from(teacher: PreTrainedModel, student: PreTrainedModel) -> None:
    for model in (teacher, student):
        with torch.no_grad():
            found = hidden_states(model, TEXT[0].ids_BT)
            expected = [Blocks(model).after(TEXT[0].ids_BT, block) for block in range(len(found))]
        assert all(map(torch.equal, found, expected))
    assert not teacher.model.layers[0]._forward_hooks


def test_a_model_has_no_error_beside_itself(teacher: PreTrainedModel) -> None:
    found = block_errors(teacher, teacher, TEXT[:1])
    assert [(each.student, each.teacher) for each in found] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert all(each.relative_mse == 0 and each.cosine == pytest.approx(1) and not each.is_mapped for each in found)


def test_the_error_is_relative_to_the_teachers_states() -> None:
    wanted_ND = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    found = row_errors([(2 * wanted_ND[:1], wanted_ND[:1]), (0 * wanted_ND[1:], wanted_ND[1:])], 1, 2)
    assert (found.student, found.teacher) == (1, 2)
    assert found.relative_mse == pytest.approx(1.0)
    assert found.cosine == pytest.approx(0.5)


def test_padding_has_no_say(teacher: PreTrainedModel) -> None:
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other.get_input_embeddings().weight[11] += 1
    ids_BT = TEXT[0].ids_BT.clamp(max=10)
    learned_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    learned_BT[:, 12:] = False
    ids_BT[:, 12:] = 11
    [first, *_] = block_errors(other, teacher, [Batch(ids_BT, learned_BT)])
    assert first.relative_mse == 0
    assert block_errors(other, teacher, [Batch(ids_BT)])[0].relative_mse > 0


def test_unequal_widths_are_read_through_the_best_linear_map(teacher: PreTrainedModel) -> None:
    wide = copy.deepcopy(teacher)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).Q

    def widen(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output @ turn, output @ turn], -1)

    def narrow(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][..., :16] @ turn.T, *inputs[1:])

    for layer in wide.model.layers:
        layer.register_forward_hook(widen)
        layer.register_forward_pre_hook(lambda m, i: narrow(m, i) if i[0].shape[-1] == 32 else None)
    wide.model.norm.register_forward_pre_hook(narrow)
    for each in block_errors(wide, teacher, TEXT):
        assert each.is_mapped
        assert each.relative_mse < 1e-6
        assert each.cosine > 0.999


def test_what_no_map_can_know_remains_an_error(teacher: PreTrainedModel, student: PreTrainedModel) -> None:
    found = block_errors(student, teacher, TEXT)
    assert [(each.student, each.teacher) for each in found] == [(0, 1), (1, 3)]
    assert all(0.01 < each.relative_mse < 2 and each.is_mapped for each in found)


def test_a_map_needs_text_to_be_measured_on(teacher: PreTrainedModel, student: PreTrainedModel) -> None:
    with pytest.raises(EmptyDataError, match="one row"):
        block_errors(student, teacher, [Batch(TEXT[0].ids_BT[:1])])


def test_a_block_map_of_ones_own_is_taken_or_refused(teacher: PreTrainedModel, student: PreTrainedModel) -> None:
    assert [each.teacher for each in block_errors(student, teacher, TEXT[:2], (0, 1))] == [0, 1]
    with pytest.raises(BlockMapError, match="blocks 0 to 3"):
        block_errors(student, teacher, TEXT[:2], (0, 7))


def test_a_map_is_not_measured_on_the_rows_that_it_was_fitted_to(
    teacher: PreTrainedModel, student: PreTrainedModel
) -> None:
    # as many numbers to choose as there are positions: on its own rows the map would be exact
    two = TEXT[0].ids_BT[:2, :6]
    together = block_errors(student, teacher, [Batch(two)])
    apart = block_errors(student, teacher, [Batch(two[:1]), Batch(two[1:])])
    assert all(each.relative_mse > 0.01 for each in together)
    assert [each.relative_mse for each in apart] == pytest.approx([each.relative_mse for each in together], rel=1e-3)


def test_a_map_may_shift_the_rows(teacher: PreTrainedModel) -> None:
    wide = copy.deepcopy(teacher)
    shift_D = torch.linspace(0.5, 1.5, 16)

    def widen(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output - shift_D, torch.zeros_like(output)], -1)

    def narrow(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][..., :16] + shift_D, *inputs[1:])

    for layer in wide.model.layers:
        layer.register_forward_hook(widen)
        layer.register_forward_pre_hook(lambda m, i: narrow(m, i) if i[0].shape[-1] == 32 else None)
    wide.model.norm.register_forward_pre_hook(narrow)
    assert all(each.is_mapped and each.relative_mse < 1e-6 for each in block_errors(wide, teacher, TEXT))


def test_padding_has_no_say_in_a_map(teacher: PreTrainedModel, student: PreTrainedModel) -> None:
    learned_BT = torch.ones_like(TEXT[0].ids_BT, dtype=torch.bool)
    learned_BT[:, 12:] = False
    found = []
    for padding in (3, 11):
        ids_BT = TEXT[0].ids_BT.clone()
        ids_BT[:, 12:] = padding
        found.append(block_errors(student, teacher, [Batch(ids_BT, learned_BT)]))
    bare = block_errors(student, teacher, [Batch(TEXT[0].ids_BT[:, :12])])
    for some in found:
        assert [each.relative_mse for each in some] == pytest.approx([each.relative_mse for each in bare], rel=1e-4)
