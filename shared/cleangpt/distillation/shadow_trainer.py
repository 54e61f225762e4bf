"""Fits a shadow to a trunk that only accepts and returns hidden states.

Shapes: B rows, T positions, N predicting positions, D hidden size, V vocabulary.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from cleangpt.data.batches import Batch
from cleangpt.distillation.ends import Ends
from cleangpt.distillation.losses import HiddenStateLoss, LogitLoss
from cleangpt.distillation.stage import StagePlan, rates_of, shape_in_words, standing_still
from cleangpt.distillation.teacher import TrunkTeacher
from cleangpt.distillation.text import lengths, next_ids, present
from cleangpt.model.shadow import Shadow
from cleangpt.model.shadow_folder import export_shadow
from cleangpt.trainers.callbacks import Callback
from cleangpt.trainers.differences import of_validation
from cleangpt.trainers.digests import description_of_batches, digest_of_weights
from cleangpt.trainers.folder_lock import locked
from cleangpt.trainers.history import History
from cleangpt.trainers.loaders import SameEveryEpoch, epochs_of
from cleangpt.trainers.random_streams import torch_seed
from cleangpt.trainers.settings import TrainingSettings
from cleangpt.writing import replacing

HISTORY_FILE = "history.json"
SHADOW_FOLDER = "shadow"


@dataclass(frozen=True, kw_only=True)
class TrunkBatch(Batch):
    """A batch with the rows that the bottom sent and those that the trunk returned."""

    sent_BTD: Tensor  # noqa: N815 - a shape
    answered_BTD: Tensor  # noqa: N815 - a shape


@dataclass(frozen=True)
class ShadowResults:
    """The losses of every step, by the name of the stage."""

    stages: dict[str, History]

    @property
    def steps(self) -> int:
        """The number of steps in all stages."""
        return sum(each.step for each in self.stages.values())


class ShadowTrainer:
    """Queries the trunk once for every batch and fits `shadow` in place to the answers.

    First the shadow's layers learn the trunk's rows, one layer after another; then the whole shadow learns, through
    the frozen top, the predictions that the trunk's rows lead to.

    Args:
        data: a DataLoader, a list of batches, or EpochBatches. The trunk's answers for its first epoch are kept in
            memory and used in every epoch.
        output_dir: the folder for checkpoints, history.json and the folder `shadow`; None writes nothing.
        settings: the loop's settings, except epochs and schedule, which `train` sets.
        callbacks: the callbacks of every stage's loop.
        validation_data: held-out rows, on which each stage measures its own loss; the trunk is asked for them too.

    Raises:
        TrunkMismatchError: the trunk belongs to another model, cut or dtype than the ends.
        BatchFormatError: the data cannot be read.
    """

    def __init__(
        self,
        ends: Ends,
        trunk: TrunkTeacher,
        shadow: Shadow,
        data: Any,
        output_dir: Path | str | None = None,
        settings: TrainingSettings | None = None,
        callbacks: Sequence[Callback] = (),
        *,
        validation_data: Any = None,
    ) -> None:
        ends.check(trunk.fingerprint, "the trunk")
        self._ends = ends
        self._trunk = trunk
        self.shadow = shadow
        shadow.config.fingerprint = ends.fingerprint
        self._output_dir = None if output_dir is None else Path(output_dir)
        settings = settings or TrainingSettings(epochs=1)
        recorded = self._recorded(data, settings.seed)
        held_out = None if validation_data is None else self._recorded(validation_data, settings.seed)
        # each epoch has another order, which depends on seed and epoch alone
        source = _Shuffled(recorded, settings.seed)
        made_from = {
            "trunk": ends.fingerprint,
            "shadow's config": shape_in_words(shadow),
            "shadow's start weights": digest_of_weights(shadow),
            **_text_of(recorded),
        }
        validation = None
        if held_out is not None:
            made_from |= of_validation(_text_of(held_out))
            validation = SameEveryEpoch(held_out)
        self._plan = StagePlan(source, settings, made_from, self._output_dir, shadow.device, callbacks, validation)

    def train(
        self,
        hidden_epochs: int = 1,
        logit_epochs: int = 2,
        lr: float | Sequence[float] = 3e-3,
        *,
        logit_lr: float | None = None,
        hidden_loss: HiddenStateLoss | None = None,
        logit_loss: LogitLoss | None = None,
    ) -> ShadowResults:
        """Fits layer by layer for `hidden_epochs` each, then end to end for `logit_epochs`; 0 skips a stage.

        A shadow without layers is fitted end to end alone.

        Args:
            lr: the highest learning rate, one for all layers or one for each.
            logit_lr: that of the end-to-end fit; None means the last layer's.

        Raises the errors of `rates_of` and StagePlan.fit, and FolderInUseError if another distillation writes to
        `output_dir`.
        """
        n_layers = self.shadow.config.num_hidden_layers
        rates = rates_of(lr, max(1, n_layers))
        self._hidden_loss, self._logit_loss = hidden_loss or HiddenStateLoss(), logit_loss or LogitLoss()
        losses = {**self._hidden_loss.described, **self._logit_loss.described}
        plan = replace(self._plan, made_from={**self._plan.made_from, **losses})
        stages: dict[str, History] = {}
        frozen = standing_still(self.shadow, self._ends.bottom, self._ends.top)
        with frozen, nullcontext() if self._output_dir is None else locked(self._output_dir):
            for layer, rate in enumerate(rates[:n_layers] if hidden_epochs else ()):
                name = f"block_{layer:05d}"
                stages[name] = self._fit_layer(plan, name, layer, hidden_epochs, rate)
            if logit_epochs:
                stages["end_to_end"] = self._fit_whole(plan, "end_to_end", logit_epochs, logit_lr or rates[-1])
            self._write(stages)
        return ShadowResults(stages)

    def ask(self, batch: Batch) -> TrunkBatch:
        """Queries the trunk with one batch and returns the batch with its answer, on the shadow's device."""
        sent_BTD = self._ends.hidden(batch.ids_BT.to(self._ends.bottom.device))
        answered_BTD = self._trunk.hidden(sent_BTD, lengths(batch))
        asked = TrunkBatch(batch.ids_BT, batch.learned_BT, sent_BTD=sent_BTD, answered_BTD=answered_BTD)
        return asked.to(self.shadow.device)

    def _recorded(self, data: Any, seed: int) -> list[TrunkBatch]:
        return [self.ask(batch) for batch in epochs_of(data, seed).batches(0)]

    def _rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        # the plan's data consists of TrunkBatches, and the loop preserves the type of a batch
        recorded = cast(TrunkBatch, batch)
        return recorded.sent_BTD.to(self.shadow.dtype), recorded.answered_BTD

    def _fit_layer(self, plan: StagePlan, name: str, layer: int, epochs: int, lr: float) -> History:
        def objective(batch: Batch) -> Tensor:
            sent_BTD, answered_BTD = self._rows(batch)
            counts_BT = present(batch)
            loss: Tensor = self._hidden_loss(self.shadow.after(sent_BTD, layer)[counts_BT], answered_BTD[counts_BT])
            return loss

        parameters = self.shadow.parameters_of(layer)
        return plan.fit(name, parameters, objective, epochs, lr, models=[self.shadow])

    def _fit_whole(self, plan: StagePlan, name: str, epochs: int, lr: float) -> History:
        parameters = list(self.shadow.parameters())
        return plan.fit(name, parameters, self._loss_of_logits, epochs, lr, models=[self.shadow])

    def _loss_of_logits(self, batch: Batch) -> Tensor:
        sent_BTD, answered_BTD = self._rows(batch)
        with torch.no_grad():
            wanted_NV = self._ends.logits(answered_BTD, batch)
        found_NV = self._ends.logits(self.shadow(sent_BTD), batch)
        loss: Tensor = self._logit_loss(found_NV, wanted_NV, next_ids(batch))
        return loss

    def _write(self, stages: dict[str, History]) -> None:
        if self._output_dir is None:
            return
        self._output_dir.mkdir(parents=True, exist_ok=True)
        text = json.dumps({name: each.to_dict() for name, each in stages.items()})
        with replacing(self._output_dir / HISTORY_FILE) as partial:
            partial.write_text(f"{text}\n", encoding="utf-8")
        export_shadow(self.shadow, self._output_dir / SHADOW_FOLDER)


def _text_of(batches: Sequence[Batch]) -> dict[str, str]:
    return description_of_batches(Batch(each.ids_BT, each.learned_BT) for each in batches)


class _Shuffled:
    """The same batches in every epoch, in another order each time."""

    def __init__(self, batches: Sequence[Batch], seed: int) -> None:
        self._batches = batches
        self._seed = seed

    def batches(self, epoch: int) -> Sequence[Batch]:
        generator = torch.Generator().manual_seed(torch_seed(self._seed * 1_000_003 + epoch))
        return [self._batches[index] for index in torch.randperm(len(self._batches), generator=generator).tolist()]
