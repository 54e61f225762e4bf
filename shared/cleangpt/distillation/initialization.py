"""Weights of the teacher as the student's first ones: of final norm and head, or of embeddings and blocks."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from cleangpt.config import OWN_OPTIONS
from cleangpt.distillation.blocks import Blocks
from cleangpt.errors import InitializationError

Named = Mapping[str, nn.Parameter]

# fields of a config that change what equal weights compute, and perhaps no shape
_BEYOND_SHAPES = ("num_attention_heads", "num_key_value_heads", "hidden_act", "rope_parameters", *OWN_OPTIONS)


def initialize_head(teacher: Blocks, student: Blocks) -> None:
    """Copies final norm and head. If the student's head is tied to its embeddings, these change with it.

    Raises:
        InitializationError: a shape differs; nothing was copied.
    """
    _copy_all([("final norm and head", teacher.end_parameters(), student.end_parameters())])


def initialize_body(teacher: Blocks, student: Blocks, feeds: Sequence[int]) -> None:
    """Copies the embeddings, and into each of the student's blocks that of the teacher's which it learns from.

    Args:
        feeds: the teacher block for each student block, from `block_map`.

    Raises:
        InitializationError: the student is of another architecture, a shape differs, or blocks compute otherwise with
            the same weights, as with other heads or options; nothing was copied.
    """
    types = [each.model.config.model_type for each in (student, teacher)]
    if types[0] != types[1]:
        raise InitializationError(
            f"the student is of type {types[0]} and the teacher of type {types[1]}, so blocks cannot be copied; "
            "give the student the teacher's type, or initialize its head alone"
        )
    _check_configs(teacher, student)
    blocks = [
        (f"block {block}", teacher.block_parameters(feed), student.block_parameters(block))
        for block, feed in enumerate(feeds)
    ]
    _copy_all([("embeddings", teacher.begin_parameters(), student.begin_parameters()), *blocks])


def _check_configs(teacher: Blocks, student: Blocks) -> None:
    own, others = (each.model.config.get_text_config(decoder=True) for each in (student, teacher))
    for name in _BEYOND_SHAPES:
        found, wanted = getattr(own, name, None), getattr(others, name, None)
        if found != wanted:
            raise InitializationError(
                f"the student's blocks cannot be copied from the teacher's: its {name} is {found} and the teacher's "
                f"{wanted}, so that they would compute otherwise; give it the teacher's, or do not initialize it"
            )


def _copy_all(sections: Sequence[tuple[str, Named, Named]]) -> None:
    for name, found, wanted in sections:
        _check_shapes(name, found, wanted)
    with torch.no_grad():
        for _, found, wanted in sections:
            for own, each in zip(wanted.values(), found.values(), strict=True):
                own.copy_(each)


def _check_shapes(section: str, teachers: Named, students: Named) -> None:
    for place in range(max(len(teachers), len(students))):
        his, own = (list(named.items())[place : place + 1] for named in (teachers, students))
        if [each.shape for _, each in his] != [each.shape for _, each in own]:
            raise InitializationError(
                f"the student's {section} cannot be copied from the teacher's: the student has {_shown(own)} where the "
                f"teacher has {_shown(his)}; give it the teacher's sizes and biases, or do not initialize it"
            )


def _shown(named: Sequence[tuple[str, nn.Parameter]]) -> str:
    return "".join(f"{name} of shape {list(each.shape)}" for name, each in named) or "nothing"
