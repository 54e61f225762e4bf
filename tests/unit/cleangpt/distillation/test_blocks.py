import torch
from torch import nn
from transformers import PreTrainedModel

from cleangpt.data.batches import Batch
from cleangpt.distillation.blocks import Blocks
from cleangpt.evaluation.hidden_errors import hidden_states

LEARNED_BT = torch.tensor([[False, False, True, True, False]])
IDS_BT = torch.tensor([[4, 9, 2, 7, 0]])


def test_hidden_states_after_a_block_are_those_of_the_whole_run(teacher: PreTrainedModel) -> None:
    blocks = Blocks(teacher)
    states = teacher(IDS_BT, output_hidden_states=True).hidden_states
    for block in range(3):
        torch.testing.assert_close(blocks.after(IDS_BT, block), states[block + 1])
    # transformers norms the last one
    torch.testing.assert_close(teacher.model.norm(blocks.after(IDS_BT, 3)), states[4])


def test_several_streams_of_a_row_are_read_side_by_side(teacher: PreTrainedModel) -> None:
    expected = [Blocks(teacher).after(IDS_BT, block) for block in range(2)]

    def joined(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].flatten(2), *inputs[1:]) if inputs[0].dim() == 4 else inputs

    for layer in teacher.model.layers:
        layer.register_forward_pre_hook(joined)
        layer.register_forward_hook(lambda _, __, output: output.unflatten(2, (2, 8)))
    teacher.model.norm.register_forward_pre_hook(joined)
    for block in range(2):
        torch.testing.assert_close(Blocks(teacher).after(IDS_BT, block), expected[block])
        torch.testing.assert_close(hidden_states(teacher, IDS_BT)[block], expected[block])


def test_the_model_has_all_its_blocks_again_afterwards(teacher: PreTrainedModel) -> None:
    before = teacher(IDS_BT).logits
    Blocks(teacher).after(IDS_BT, 0)
    torch.testing.assert_close(teacher(IDS_BT).logits, before)


def test_logits_are_those_of_the_positions_that_predict(teacher: PreTrainedModel) -> None:
    found_NV = Blocks(teacher).logits(Batch(IDS_BT, LEARNED_BT))
    torch.testing.assert_close(found_NV, teacher(IDS_BT).logits[0, 1:3])


def test_every_parameter_belongs_to_a_block_or_to_the_head(teacher: PreTrainedModel) -> None:
    blocks = Blocks(teacher)
    owned = [each for block in range(4) for each in blocks.parameters_of(block)] + blocks.head_parameters()
    assert {id(each) for each in owned} == {id(each) for each in teacher.parameters()}
    assert len(owned) == len(list(teacher.parameters()))


def test_a_tied_head_takes_the_embeddings_along(student: PreTrainedModel) -> None:
    head = Blocks(student).head_parameters()
    assert any(each is student.transformer.wte.weight for each in head)
