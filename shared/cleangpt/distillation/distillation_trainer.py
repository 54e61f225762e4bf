"""Distills one whole causal model into another: block by block and then the head, or end to end."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cleangpt.distillation.blocks import Blocks
from cleangpt.distillation.initialization import initialize_body, initialize_head
from cleangpt.distillation.losses import HiddenStateLoss, LogitLoss
from cleangpt.distillation.stage import StagePlan, described, rates_of, shape_in_words
from cleangpt.distillation.stitching import StitchingLayers, block_map
from cleangpt.distillation.teacher import load_teacher
from cleangpt.distillation.trainers.backbone_trainer import BackboneTrainer
from cleangpt.distillation.trainers.head_trainer import HeadTrainer
from cleangpt.errors import VocabularyMismatchError
from cleangpt.model.form import check_form
from cleangpt.trainers.callbacks import Callback
from cleangpt.trainers.digests import digest_of_weights
from cleangpt.trainers.folder_lock import locked
from cleangpt.trainers.history import History
from cleangpt.trainers.loaders import epochs_of
from cleangpt.trainers.random_streams import torch_seed
from cleangpt.trainers.settings import TrainingSettings
from cleangpt.writing import replacing, replacing_files

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
        stitching_layer_bias: whether the stitching layers have biases.
        hidden_state_loss_type: "mse", "cosine", "mix" or "kl_div".
        hidden_state_temperature: the temperature of that divergence.
        logit_loss_type: "kl_div", "cross_entropy", "mix", "mse" or "ce".
        temperature: the temperature of the divergence of predictions.
        logit_loss_weight: what the loss of predictions is multiplied by.
        freeze_previous_blocks: whether the blocks before the one that is fitted stand still.
        blocks: the teacher block for each student block; None spreads them evenly.
        settings: the loop's settings, except epochs and schedule, which `train` sets; None means the defaults.
        head_settings: those of the head's stage; None means `settings`.
        validation_dataloader: held-out rows, on which each stage measures its own loss.
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
        stitching_layer_bias: bool = True,
        hidden_state_loss_type: str = "mse",
        hidden_state_temperature: float = 1.0,
        logit_loss_type: str = "kl_div",
        temperature: float = 1.0,
        logit_loss_weight: float = 1.0,
        freeze_previous_blocks: bool = True,
        blocks: Sequence[int] | None = None,
        settings: TrainingSettings | None = None,
        head_settings: TrainingSettings | None = None,
        validation_dataloader: Any = None,
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
        self._freeze_previous = freeze_previous_blocks
        settings = settings or TrainingSettings(epochs=1)
        self._head_settings = head_settings or settings
        self._stitches = self._new_stitches(settings.seed, use_stitching_layers, stitching_layer_bias).to(place)
        self._hidden_loss = HiddenStateLoss(hidden_state_loss_type, temperature=hidden_state_temperature)
        self._logit_loss = LogitLoss(logit_loss_type, temperature, weight=logit_loss_weight)
        data, validation = epochs_of(train_dataloader, settings.seed), None
        if validation_dataloader is not None:
            validation = epochs_of(validation_dataloader, settings.seed)
        made_from = {**self._made_from(), **described(data, settings, validation)}
        self._plan = StagePlan(data, settings, made_from, self.output_dir, place, callbacks, validation)

    def train(
        self,
        epochs_per_block: int = 1,
        lr_per_block: float | Sequence[float] = 1e-3,
        train_lm_head: bool = True,
        lm_head_epochs: int = 1,
        lm_head_lr: float | None = None,
        *,
        initialize_head_from_teacher: bool = False,
        initialize_student_from_teacher: bool = False,
    ) -> DistillationResults:
        """Fits the blocks in order and then the head; stages finished before a kill are loaded from checkpoints.

        Args:
            lr_per_block: the highest learning rate, one for all blocks or one for each.
            lm_head_lr: that of the head; None means the last block's.
            initialize_head_from_teacher: first copy final norm and head; see `initialize_head`.
            initialize_student_from_teacher: first copy embeddings and blocks; see `initialize_body`.

        Raises:
            InitializationError: the teacher's weights do not fit into the student.
            TrainingSettingsError: there are neither one rate nor as many as blocks.
            FolderInUseError: another distillation writes to `output_dir`.
            CheckpointMismatchError, CheckpointBrokenError, TrainingDivergedError, EmptyDataError: see `StagePlan.fit`.
        """
        rates = rates_of(lr_per_block, self._student.n_blocks)
        plan = self._initialized(head=initialize_head_from_teacher, body=initialize_student_from_teacher)
        with locked(self.output_dir):
            histories = self._backbone_trainer().train(plan, epochs_per_block, rates)
            head = None
            if train_lm_head:
                plan = replace(plan, settings=self._head_settings)
                head = self._head_trainer().train(plan, lm_head_epochs, lm_head_lr or rates[-1])
            return self._finished(DistillationResults(tuple(histories), head))

    def train_end_to_end(
        self,
        epochs: int,
        lr: float = 1e-3,
        *,
        initialize_head_from_teacher: bool = False,
        initialize_student_from_teacher: bool = False,
    ) -> DistillationResults:
        """Fits the whole student at once by its logits, as a baseline for fitting block by block.

        Raises the errors of `train`.
        """
        plan = self._initialized(head=initialize_head_from_teacher, body=initialize_student_from_teacher)
        with locked(self.output_dir):
            history = self._head_trainer().train(plan, epochs, lr, whole_student=True)
            return self._finished(DistillationResults(end_to_end=history))

    def export(self, folder: Path | str) -> Path:
        """Writes the student and its tokenizer as a Hugging Face folder, which `splitlearn convert` takes.

        Raises NotWrittenError if the disk is full; what the folder held before is intact.
        """
        folder = Path(folder)
        with replacing_files(folder) as partial:
            self.student_model.save_pretrained(partial)
            if self._tokenizer is not None:
                self._tokenizer.save_pretrained(partial)
        return folder

    def _new_stitches(self, seed: int, use: bool, bias: bool) -> StitchingLayers:
        # the same in each run, so that a stage that was interrupted can go on
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(torch_seed(seed))
            return StitchingLayers(self._student.n_blocks, self._student.width, self._teacher.width, use=use, bias=bias)

    def _initialized(self, *, head: bool, body: bool) -> StagePlan:
        """Copies what is asked for; the plan's checkpoints are then of a student that starts with it."""
        if body:
            initialize_body(self._teacher, self._student, self._feeds)
        if head:
            initialize_head(self._teacher, self._student)
        made_from = {
            **self._plan.made_from,
            "initialize_head_from_teacher": str(head),
            "initialize_student_from_teacher": str(body),
            "student's start weights": digest_of_weights(self._student.model),
        }
        return replace(self._plan, made_from=made_from)

    def _backbone_trainer(self) -> BackboneTrainer:
        models = (self._teacher, self._student, self._stitches)
        return BackboneTrainer(*models, self._feeds, self._hidden_loss, freeze_previous=self._freeze_previous)

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
            **self._hidden_loss.described,
            **self._logit_loss.described,
            "freeze_previous_blocks": str(self._freeze_previous),
            "blocks": str(self._feeds),
        }
