import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.accuracy import measure_accuracy
from cleangpt.errors import CheckpointMismatchError, TrainingDivergedError
from cleangpt.rows import ConversationRows, Row
from cleangpt.schedule import WarmupStableDecay
from cleangpt.stdlib_questions import Question
from cleangpt.training import Checkpoints, TrainingSettings, learned_loss, train

_SHORT = TrainingSettings(epochs=6, schedule=WarmupStableDecay(peak=1e-2, warmup=2, decay=0.5))


class _PulledPlug(list[Row]):
    """A batch during which the process dies."""

    def __iter__(self) -> "_PulledPlug":
        raise KeyboardInterrupt


@dataclass
class _DiesAt:
    """The batches of `data`, of which one kills the training."""

    data: ConversationRows
    epoch: int
    batch: int

    def batches(self, epoch: int) -> Sequence[Sequence[Row]]:
        batches: list[Sequence[Row]] = list(self.data.batches(epoch))
        if epoch == self.epoch:
            batches[self.batch] = _PulledPlug()
        return batches


def test_three_answers_are_memorised(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    three_rows: ConversationRows,
    three_questions: tuple[Question, ...],
) -> None:
    losses = train(tiny_model, three_rows, replace(_SHORT, epochs=60))
    assert losses[0] > 4
    assert losses[-1] < 0.1
    assert not tiny_model.training
    assert measure_accuracy(tiny_model, tiny_tokenizer, three_questions).misses == ()
    cut_short = replace(three_questions[0], answer="Turn to")
    [miss] = measure_accuracy(tiny_model, tiny_tokenizer, [cut_short, *three_questions[1:]]).misses
    assert (miss.expected, miss.found) == ("Turn to", "Turn to the left.")


def test_equal_starts_give_equal_losses(tiny_model: PreTrainedModel, three_rows: ConversationRows) -> None:
    twin = copy.deepcopy(tiny_model)
    assert train(tiny_model, three_rows, _SHORT) == train(twin, three_rows, _SHORT)


def test_a_killed_training_resumes_with_the_losses_and_weights_of_an_uninterrupted_one(
    tiny_model: PreTrainedModel, three_rows: ConversationRows, tmp_path: Path
) -> None:
    uninterrupted, killed, resumed = (copy.deepcopy(tiny_model) for _ in range(3))
    expected = train(uninterrupted, three_rows, _SHORT)
    assert len(three_rows.batches(3)) > 1
    checkpoints = Checkpoints(tmp_path, "three", every_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(killed, _DiesAt(three_rows, epoch=3, batch=1), _SHORT, checkpoints)
    assert train(resumed, three_rows, _SHORT, checkpoints) == expected
    for name, tensor in uninterrupted.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_finished_training_is_not_repeated(
    tiny_model: PreTrainedModel, three_rows: ConversationRows, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path, "three")
    first = train(copy.deepcopy(tiny_model), three_rows, _SHORT, checkpoints)
    # every batch would kill it
    again = train(tiny_model, _DiesAt(three_rows, epoch=0, batch=0), _SHORT, checkpoints)
    assert again == first


@pytest.mark.parametrize(
    ("settings", "identity"),
    [(replace(_SHORT, weight_decay=0.5), "three"), (_SHORT, "four")],
)
def test_the_checkpoint_of_another_training_is_refused_and_kept(
    tiny_model: PreTrainedModel,
    three_rows: ConversationRows,
    tmp_path: Path,
    settings: TrainingSettings,
    identity: str,
) -> None:
    train(copy.deepcopy(tiny_model), three_rows, replace(_SHORT, epochs=6), Checkpoints(tmp_path, "three"))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(CheckpointMismatchError, match="remove"):
        train(tiny_model, three_rows, settings, Checkpoints(tmp_path, identity))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_loss_that_is_no_number_stops_the_training(tiny_model: PreTrainedModel, three_rows: ConversationRows) -> None:
    with torch.no_grad():
        tiny_model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match="learning rate"):
        train(tiny_model, three_rows, _SHORT)


def test_the_loss_is_the_mean_over_learned_positions_whatever_the_padding(tiny_model: PreTrainedModel) -> None:
    short = Row((4, 5, 6), (False, True, True))
    long = Row((7, 8, 9, 10, 11), (False, False, False, True, True))
    tiny_model.eval()
    with torch.no_grad():
        alone = [float(learned_loss(tiny_model, [row])) for row in (short, long)]
        together = float(learned_loss(tiny_model, [short, long]))
    assert together == pytest.approx(sum(alone) / 2, rel=1e-5)
