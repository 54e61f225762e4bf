import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel

from cleangpt.config import GPTConfig
from cleangpt.data.batches import Batch
from cleangpt.distillation.blocks import Blocks
from cleangpt.distillation.distillation_trainer import DistillationTrainer
from cleangpt.distillation.initialization import initialize_body, initialize_head
from cleangpt.errors import CheckpointMismatchError, InitializationError
from cleangpt.model import get_model


def _llama(teacher: PreTrainedModel, **changes: object) -> PreTrainedModel:
    torch.manual_seed(8)
    config = LlamaConfig(**{**teacher.config.to_dict(), "num_hidden_layers": 2, **changes})
    return AutoModelForCausalLM.from_config(config).eval()


def _gpt2(width: int, **changes: object) -> PreTrainedModel:
    torch.manual_seed(9)
    sizes = {"n_embd": width, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 32}
    return AutoModelForCausalLM.from_config(GPT2Config(**sizes, bos_token_id=1, eos_token_id=1, **changes)).eval()


def test_final_norm_and_head_are_the_teachers_and_nothing_else(teacher: PreTrainedModel) -> None:
    student = _llama(teacher)
    with torch.no_grad():
        teacher.model.norm.weight.uniform_()
    before = {name: each.clone() for name, each in student.named_parameters()}
    initialize_head(Blocks(teacher), Blocks(student))
    assert torch.equal(student.lm_head.weight, teacher.lm_head.weight)
    assert torch.equal(student.model.norm.weight, teacher.model.norm.weight)
    changed = {name for name, each in student.named_parameters() if not torch.equal(before[name], each)}
    assert changed == {"lm_head.weight", "model.norm.weight"}


def test_in_a_student_with_a_tied_head_the_embeddings_change_with_it(teacher: PreTrainedModel) -> None:
    student = _llama(teacher, tie_word_embeddings=True)
    initialize_head(Blocks(teacher), Blocks(student))
    assert torch.equal(student.model.embed_tokens.weight, teacher.lm_head.weight)


def test_another_architecture_with_the_same_shapes_gets_the_head() -> None:
    teacher, student = _gpt2(16), AutoModelForCausalLM.from_config(_gpt2(16).config)
    initialize_head(Blocks(teacher), Blocks(student))
    assert torch.equal(student.lm_head.weight, teacher.lm_head.weight)


def test_a_head_of_another_width_is_refused_with_both_shapes(teacher: PreTrainedModel) -> None:
    student = _llama(teacher, hidden_size=8)
    before = [each.clone() for each in student.parameters()]
    said = r"final norm and head .*norm.weight of shape \[8\] where the teacher has .*norm.weight of shape \[16\]; give"
    with pytest.raises(InitializationError, match=said):
        initialize_head(Blocks(teacher), Blocks(student))
    assert all(map(torch.equal, before, student.parameters()))


def test_a_norm_of_another_kind_is_refused(teacher: PreTrainedModel) -> None:
    with pytest.raises(InitializationError, match=r"ln_f.bias of shape \[16\] where the teacher has lm_head.weight"):
        initialize_head(Blocks(teacher), Blocks(_gpt2(16)))


def test_embeddings_and_the_chosen_blocks_are_the_teachers(teacher: PreTrainedModel) -> None:
    student = _llama(teacher)
    before = student.lm_head.weight.clone()
    initialize_body(Blocks(teacher), Blocks(student), (1, 3))
    assert torch.equal(student.model.embed_tokens.weight, teacher.model.embed_tokens.weight)
    for own, chosen in ((0, 1), (1, 3)):
        pairs = zip(student.model.layers[own].parameters(), teacher.model.layers[chosen].parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
    assert torch.equal(student.lm_head.weight, before)


def test_a_student_of_all_the_teachers_blocks_computes_what_it_does(teacher: PreTrainedModel) -> None:
    student = _llama(teacher, num_hidden_layers=4)
    initialize_body(Blocks(teacher), Blocks(student), range(4))
    initialize_head(Blocks(teacher), Blocks(student))
    ids_BT = torch.arange(8)[None]
    torch.testing.assert_close(student(ids_BT).logits, teacher(ids_BT).logits)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 8}, r"embeddings cannot be copied .*\[32, 8\] where the teacher has .*\[32, 16\]"),
        ({"intermediate_size": 24}, r"block 0 cannot be copied .*\[24, 16\] where the teacher has .*\[32, 16\]"),
        ({"attention_bias": True}, r"block 0 cannot be copied .*q_proj.bias"),
    ],
)
def test_a_student_of_other_sizes_is_refused_with_both_shapes_and_left_alone(
    teacher: PreTrainedModel, changes: dict[str, object], said: str
) -> None:
    student = _llama(teacher, **changes)
    before = [each.clone() for each in student.parameters()]
    with pytest.raises(InitializationError, match=said):
        initialize_body(Blocks(teacher), Blocks(student), (1, 3))
    assert all(map(torch.equal, before, student.parameters()))


@pytest.mark.parametrize(
    ("model_type", "changes", "said"),
    [
        # one square matrix each: a projection of values in place of that of outputs
        ("SASP", {"value_projection": True, "output_projection": False}, "its value_projection is True and the teach"),
        ("SASP", {"skip_connections": True}, "its skip_connections is True and the teacher's False"),
        ("Vanilla", {"n_head": 4}, "its num_attention_heads is 4 and the teacher's 2"),
    ],
)
def test_blocks_of_equal_shapes_that_compute_otherwise_are_refused(
    model_type: str, changes: dict[str, object], said: str
) -> None:
    sizes = {"block_size": 16, "vocab_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 16}
    teacher, student = (get_model(model_type, config=GPTConfig(**{**sizes, **more})) for more in ({}, changes))
    before = [each.clone() for each in student.parameters()]
    with pytest.raises(InitializationError, match=said):
        initialize_body(Blocks(teacher), Blocks(student), (0, 1))
    assert all(map(torch.equal, before, student.parameters()))


def test_blocks_of_another_architecture_are_refused_by_name(teacher: PreTrainedModel) -> None:
    with pytest.raises(InitializationError, match=r"of type gpt2 and the teacher of type llama.*its head alone"):
        initialize_body(Blocks(teacher), Blocks(_gpt2(16)), (1, 3))


def test_a_distillation_starts_with_what_was_copied_and_its_checkpoints_say_so(
    teacher: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    def first_losses(out: str, **start: bool) -> list[float]:
        student = _llama(teacher, num_hidden_layers=4)
        trainer = DistillationTrainer(teacher, copy.deepcopy(student), None, texts, output_dir=tmp_path / out)
        results = trainer.train(1, 1e-9, lm_head_lr=1e-9, **start)
        assert results.head is not None
        return [results.blocks[0].losses[0], results.head.losses[0]]

    plain = first_losses("plain")
    body = first_losses("body", initialize_student_from_teacher=True)
    both = first_losses("both", initialize_student_from_teacher=True, initialize_head_from_teacher=True)
    assert plain[0] > 0.1
    assert body[0] == both[0] == pytest.approx(0.0, abs=1e-6)
    assert body[1] > 0.01
    assert both[1] == pytest.approx(0.0, abs=1e-5)
    # the same again is taken from the checkpoints, and nothing else is
    assert first_losses("body", initialize_student_from_teacher=True) == body
    said = r"initialize_head_from_teacher was False and is now True.*other student's start weights"
    with pytest.raises(CheckpointMismatchError, match=said):
        first_losses("body", initialize_student_from_teacher=True, initialize_head_from_teacher=True)


def test_what_cannot_be_copied_is_refused_before_anything_is_written(
    teacher: PreTrainedModel, student: PreTrainedModel, texts: list[Batch], tmp_path: Path
) -> None:
    trainer = DistillationTrainer(teacher, student, None, texts, output_dir=tmp_path / "out")
    for start in ("initialize_head_from_teacher", "initialize_student_from_teacher"):
        with pytest.raises(InitializationError):
            trainer.train(**{start: True})
        with pytest.raises(InitializationError):
            trainer.train_end_to_end(1, **{start: True})
    assert not (tmp_path / "out").exists()
