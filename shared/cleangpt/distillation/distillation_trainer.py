"""Distills one whole causal model into another: block by block and then the head, or end to end."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cleangpt.distillation.blocks import Blocks
from cleangpt.distillation.losses import HiddenStateLoss, LogitLoss
from cleangpt.distillation.stage import StagePlan, shape_in_words
from cleangpt.distillation.stitching import StitchingLayers, block_map
from cleangpt.distillation.teacher import load_teacher
from cleangpt.distillation.text import epochs_of
from cleangpt.distillation.trainers.backbone_trainer import BackboneTrainer
from cleangpt.distillation.trainers.head_trainer import HeadTrainer
from cleangpt.errors import VocabularyMismatchError
from cleangpt.model.form import check_form
from cleangpt.trainers.callbacks import Callback
from cleangpt.trainers.digests import digest_of_weights
from cleangpt.trainers.feed import Feed
from cleangpt.trainers.folder_lock import locked
from cleangpt.trainers.history import History
from cleangpt.trainers.random_streams import torch_seed
from cleangpt.trainers.settings import TrainingSettings
from cleangpt.writing import named_where_not_written, replacing

HISTORY_FILE = "history.json"
STUDENT_FOLDER = "student"


@dataclass(frozen=True)
class DistillationResults:
    """The losses of every step, for each block, the head, and an end-to-end fit."""

    blocks: tuple[History, ...] = ()
    head: History | None = None
    end_to_end: History | None = None

    def to_dict(self) -> dict[str, Any]:
        """The losses as plain values, as written to history.json."""
        return {
            "blocks": [each.to_dict() for each in self.blocks],
            "head": self.head.to_dict() if self.head else None,
            "end_to_end": self.end_to_end.to_dict() if self.end_to_end else None,
        }


class DistillationTrainer:
    """Fits `student_model` in place. Writes checkpoints, history.json and the folder `student` to `output_dir`.

    Args:
        teacher_model: a causal model, a Hugging Face folder, or a sepweight directory.
        student_model: any causal model that can be cut.
        tokenizer: saved with the student; None saves no tokenizer.
        train_dataloader: a DataLoader, a list of batches, or EpochBatches.
        device: the device of both models; None means the student's.
        hidden_state_loss_type: "mse", "cosine" or "mix".
        logit_loss_type: "kl_div", "cross_entropy" or "mix".
        temperature: the temperature of the divergence.
        blocks: the teacher block for each student block; None spreads them evenly.
        settings: the loop's settings, except epochs and schedule, which `train` sets; None means the defaults.
        callbacks: the callbacks of every stage's loop.

    Raises:
        VocabularyMismatchError: teacher and student have vocabularies of different sizes.
        StitchingNeededError, BlockMapError, UnknownLossError, BatchFormatError, ModelFolderError: see each error.
    """

    def __init__(
        self,
        teacher_model: PreTrainedModel | Path | str,
        student_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        train_dataloader: Any,
        device: torch.device | str | None = None,
        output_dir: Path | str = "distilled_model_output",
        *,
        use_stitching_layers: bool = True,
        hidden_state_loss_type: str = "mse",
        logit_loss_type: str = "kl_div",
        temperature: float = 1.0,
        blocks: Sequence[int] | None = None,
        settings: TrainingSettings | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        teacher = load_teacher(teacher_model)
        check_form(student_model)
        place = torch.device(device) if device is not None else student_model.device
        self.student_model = student_model.to(place)
        self._teacher, self._student = Blocks(teacher.to(place)), Blocks(student_model)
        if self._teacher.vocab_size != self._student.vocab_size:
            raise VocabularyMismatchError(student=self._student.vocab_size, teacher=self._teacher.vocab_size)
        self.output_dir = Path(output_dir)
        self._tokenizer = tokenizer
        self._feeds = block_map(self._student.n_blocks, self._teacher.n_blocks, blocks)
        widths = (self._student.width, self._teacher.width)
        settings = settings or TrainingSettings(epochs=1)
        # the same in each run, so that a stage that was interrupted can go on
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(torch_seed(settings.seed))
            self._stitches = StitchingLayers(self._student.n_blocks, *widths, use=use_stitching_layers).to(place)
        self._hidden_loss = HiddenStateLoss(hidden_state_loss_type)
        self._logit_loss = LogitLoss(logit_loss_type, temperature)
        data = epochs_of(train_dataloader, settings.seed)
        made_from = {**self._made_from(), **Feed(data, settings).described()}
        self._plan = StagePlan(data, settings, made_from, self.output_dir, place, callbacks)

    def train(
        self,
        epochs_per_block: int = 1,
        lr_per_block: float = 1e-3,
        train_lm_head: bool = True,
        lm_head_epochs: int = 1,
        lm_head_lr: float | None = None,
    ) -> DistillationResults:
        """Fits the blocks in order and then the head; stages finished before a kill are loaded from checkpoints.

        Args:
            lm_head_lr: None means `lr_per_block`.

        Raises:
            FolderInUseError: another distillation writes to `output_dir`.
            CheckpointMismatchError, CheckpointBrokenError, TrainingDivergedError, EmptyDataError: see `StagePlan.fit`.
        """
        backbone = BackboneTrainer(self._teacher, self._student, self._stitches, self._feeds, self._hidden_loss)
        with locked(self.output_dir):
            histories = backbone.train(self._plan, epochs_per_block, lr_per_block)
            head = None
            if train_lm_head:
                head = self._head_trainer().train(self._plan, lm_head_epochs, lm_head_lr or lr_per_block)
            return self._finished(DistillationResults(tuple(histories), head))

    def train_end_to_end(self, epochs: int, lr: float = 1e-3) -> DistillationResults:
        """Fits the whole student at once by its logits, as a baseline for fitting block by block."""
        with locked(self.output_dir):
            history = self._head_trainer().train(self._plan, epochs, lr, whole_student=True)
            return self._finished(DistillationResults(end_to_end=history))

    def export(self, folder: Path | str) -> Path:
        """Writes the student and its tokenizer as a Hugging Face folder, which `splitlearn convert` takes."""
        folder = Path(folder)
        with named_where_not_written(folder):
            self.student_model.save_pretrained(folder)
            if self._tokenizer is not None:
                self._tokenizer.save_pretrained(folder)
        return folder

    def _head_trainer(self) -> HeadTrainer:
        return HeadTrainer(self._teacher, self._student, self._logit_loss)

    def _finished(self, results: DistillationResults) -> DistillationResults:
        with replacing(self.output_dir / HISTORY_FILE) as partial:
            partial.write_text(json.dumps(results.to_dict()) + "\n", encoding="utf-8")
        self.export(self.output_dir / STUDENT_FOLDER)
        return results

    def _made_from(self) -> dict[str, str]:
        """What every stage depends on, beside the text and the settings of the loop."""
        teacher, student = self._teacher.model, self._student.model
        return {
            "teacher's config": shape_in_words(teacher),
            "teacher's weights": digest_of_weights(teacher),
            "student's config": shape_in_words(student),
            "student's start weights": digest_of_weights(student),
            "hidden_state_loss_type": self._hidden_loss.kind,
            "logit_loss_type": self._logit_loss.kind,
            "temperature": str(self._logit_loss.temperature),
            "blocks": str(self._feeds),
        }
