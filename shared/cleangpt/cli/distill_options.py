"""The options of `cleangpt distill`, from the command line or a TOML file."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from cleangpt.cli.options import flag, names_given, names_to_unset, refuse_huge, refuse_infinite, spelled, values_of
from cleangpt.cli.run_record import settings_from
from cleangpt.config import OWN_OPTIONS
from cleangpt.distillation.addresses import address_alone
from cleangpt.errors import UsageError

_OF_SHADOWS = ("weights", "layers", "trunk", "student_parameters")
_OF_STUDENTS = (
    "teacher",
    "student_model_type",
    "student_dropout",
    "student_bias",
    *(f"student_{option}" for option in OWN_OPTIONS),
    "initialize_head_from_teacher",
    "initialize_student_from_teacher",
    "freeze_previous_blocks",
    "lm_head_weight_decay",
    "lm_head_clip_norm",
    "end_to_end_epochs",
    "use_stitching_layers",
    "stitching_layer_bias",
    "device",
)
_OF_HEADS = ("lm_head_lr", "lm_head_weight_decay", "lm_head_clip_norm")
_ABOVE_ZERO = (
    "batch_size",
    "lr_per_block",
    "lm_head_lr",
    "temperature",
    "hidden_state_temperature",
    "logit_loss_weight",
    "max_samples",
    "student_parameters",
    "block_size",
    "evaluate_every",
)
_NOT_BELOW_ZERO = (
    "epochs_per_block",
    "lm_head_epochs",
    "end_to_end_epochs",
    "weight_decay",
    "clip_norm",
    "lm_head_weight_decay",
    "lm_head_clip_norm",
)
# never to clip, and to wait for as long as it takes
_MAY_BE_INFINITE = ("clip_norm", "lm_head_clip_norm", "trunk_wait")

settings_of = settings_from("distill", "data", "teacher", "weights")
"""Reads the settings of a distillation from its directory."""


@dataclass(frozen=True)
class DistillOptions:
    """The options. Each field is a flag of the same name and a key of the settings file. Raises UsageError."""

    data: str = flag(
        "What to distil on: a text file, a folder, a dataset on disk, or the name of a source.", document="dataset_name"
    )
    out: Path = flag(  # noqa: RUF009
        "Directory to write: student/ or shadow/, history.json, curves.png, checkpoints/.", document="output_dir"
    )
    from_run: Path | None = flag(  # noqa: RUF009
        "Directory of a distillation to repeat to the bit, into --out; flags given beside it make it another one.",
        None,
        document="from",
        source=settings_of,
    )
    unset: tuple[str, ...] = names_to_unset("With --from: options of the run to leave at their defaults.")
    teacher: Path | None = flag(  # noqa: RUF009
        "Folder of the teacher, with its tokenizer.", None, document="teacher_model_name_or_path"
    )
    shadow: bool = flag("Distil the trunk of a split model in place of a whole model.", False)
    weights: Path | None = flag("With --shadow: the sepweight directory with bottom and top.", None)  # noqa: RUF009
    layers: str | None = flag("With --shadow: the trunk's layers, such as 2-22. Default: the usual cut.", None)
    trunk: str | None = flag(
        "With --shadow: HOST:PORT of the trunk. Default: its layers in --weights.", None, recorded=address_alone
    )
    trunk_wait: float = flag("With --trunk: seconds to wait for a trunk that is still starting.", 60.0)
    student_model_type: str = flag("Vanilla, SASP, Factored or FactoredALiBi.", "Vanilla")
    student_n_embd: int | None = flag("Hidden size. Default: the teacher's.", None)
    student_n_head: int | None = flag("Attention heads. Default: the teacher's; of a shadow 4.", None)
    student_n_layer: int | None = flag(
        "Layers. Default: the teacher's; of a shadow 1, and with 0 it is the adapter of an early exit.", None
    )
    student_dropout: float = flag("Share of activations to drop while fitting.", 0.0)
    student_bias: bool = flag("Biases in linear layers and norms.", True)
    student_skip_connections: bool = flag("In SASP: add a layer's input to its output.", False)
    student_value_projection: bool = flag("In SASP: let heads read a projection of the rows.", False)
    student_output_projection: bool = flag("In SASP: project what heads wrote.", True)
    student_head_mixing: bool = flag("In Factored and FactoredALiBi: weigh heads against each other.", True)
    initialize_head_from_teacher: bool = flag("Start with the teacher's final norm and head.", False)
    initialize_student_from_teacher: bool = flag("Start with the teacher's embeddings and blocks.", False)
    student_parameters: int | None = flag("With --shadow: its MLPs are as wide as this allows.", None)
    column: str = flag("Column of a dataset on disk.", "text", document="dataset_text_column")
    split: str = flag("Split of a dataset on disk.", "train", document="dataset_split")
    max_samples: int | None = flag("Distil on the first texts alone.", None)
    parse_special_tokens: bool = flag("A special token that is spelled in the text, like <|end|>, becomes it.", False)
    validation: float | None = flag(
        "Share at the end of the text to hold out; 0 for none. Default: 0.05 of text.", None
    )
    evaluate_every: int = flag("Steps of a stage between two evaluations; one more is at its end.", 200)
    block_size: int | None = flag("Tokens of a row. Default: what the teacher takes, up to 256.", None)
    batch_size: int = flag("Rows of a batch.", 16)
    epochs_per_block: int = flag("Passes over the data for each block, or for each layer of a shadow.", 1)
    lr_per_block: tuple[float, ...] = flag("Highest learning rate, one for all blocks or one for each.", (1e-3,))
    freeze_previous_blocks: bool = flag("Keep earlier blocks as they are; else they are fitted on with each.", True)
    weight_decay: float = flag("AdamW's weight decay of matrices.", 0.01, document="weight_decay_per_block")
    clip_norm: float = flag("Largest norm of the gradient; 0 does not clip.", 1.0, document="max_grad_norm_per_block")
    train_lm_head: bool = flag("Fit norm and head after the blocks; of a shadow all of it, by the logits.", True)
    lm_head_epochs: int = flag("Passes over the data for that.", 1)
    lm_head_lr: float | None = flag("Highest learning rate for that. Default: the last block's.", None)
    lm_head_weight_decay: float | None = flag("Weight decay for that. Default: that of the blocks.", None)
    lm_head_clip_norm: float | None = flag(
        "Largest norm of the gradient for that; 0 does not clip. Default: that of the blocks.",
        None,
        document="lm_head_max_grad_norm",
    )
    end_to_end_epochs: int = flag("Fit the whole student by the logits this many passes, instead of block by block.", 0)
    use_stitching_layers: bool = flag("Linear maps between unequal widths.", True, document="stitching_layers")
    stitching_layer_bias: bool = flag("Biases in these maps.", True)
    hidden_state_loss_type: Literal["mse", "cosine", "mix", "kl_div"] = flag(
        "Between hidden states.", "mse", document="distill_loss_type"
    )
    hidden_state_temperature: float = flag("Of kl_div between them.", 1.0, document="distill_loss_temperature")
    logit_loss_type: Literal["kl_div", "cross_entropy", "mix", "mse", "ce"] = flag(
        "Between predictions; cross_entropy is with the text, ce with the teacher's first choices.", "kl_div"
    )
    temperature: float = flag("Of kl_div between predictions.", 1.0, document="logit_loss_temperature")
    logit_loss_weight: float = flag("What the loss between predictions is multiplied by.", 1.0)
    bf16: bool = flag("Compute in bfloat16 where torch's autocast says so.", False)
    device: str | None = flag("cpu, cuda ... Default: a GPU if there is one. A shadow is fitted on the CPU.", None)
    seed: int = flag("Of weights and order.", 0)
    given: frozenset[str] = names_given()

    def __post_init__(self) -> None:
        refuse_huge(self, but={"seed"})
        refuse_infinite(self, but=_MAY_BE_INFINITE)
        if self.shadow and self.weights is None:
            raise UsageError("--shadow needs --weights, the sepweight directory that bottom and top are in")
        if not self.shadow and self.teacher is None:
            raise UsageError("give --teacher, or --shadow with --weights")
        defaults = {each.name: each.default for each in fields(self)}
        for name in _OF_STUDENTS if self.shadow else _OF_SHADOWS:
            if getattr(self, name) != defaults[name]:
                raise UsageError(f"{spelled(name)} {'does not go with' if self.shadow else 'is for'} --shadow")
        for name in _ABOVE_ZERO:
            for value in values_of(getattr(self, name)):
                if not value > 0:
                    raise UsageError(f"{spelled(name)} has to be above 0, found {value}")
        for name in _OF_HEADS if self.end_to_end_epochs or not self.train_lm_head else ():
            if getattr(self, name) is not None:
                raise UsageError(f"{spelled(name)} is for the fit of the head, which is left out here")
        if self.end_to_end_epochs and len(self.lr_per_block) > 1:
            raise UsageError("--end-to-end-epochs fits all blocks at once: give --lr-per-block one rate")
        for name in ("student_n_embd", "student_n_head", "student_n_layer"):
            value, least = getattr(self, name), 0 if self.shadow and name == "student_n_layer" else 1
            if value is not None and value < least:
                raise UsageError(f"{spelled(name)} has to be {least} or more, found {value}")
        if self.validation is not None and not 0 <= self.validation < 1:
            raise UsageError(f"--validation is a share of the text from 0 up to 1, found {self.validation}")
        if self.train_lm_head and not self.shadow and not self.end_to_end_epochs and not self.lm_head_epochs:
            raise UsageError("--lm-head-epochs is 0; to leave the head as it is give --no-train-lm-head")
        is_fitted_by_logits = self.end_to_end_epochs or (self.shadow and self.train_lm_head and self.lm_head_epochs)
        if self.student_n_layer == 0 and not is_fitted_by_logits:
            raise UsageError("a shadow without layers is fitted by the logits alone: give --lm-head-epochs at least 1")
        if not self.epochs_per_block and not is_fitted_by_logits:
            raise UsageError("--epochs-per-block is 0, so nothing would be fitted; give at least 1")
        for name in _NOT_BELOW_ZERO:
            for value in values_of(getattr(self, name)):
                if not value >= 0:
                    raise UsageError(f"{spelled(name)} cannot be below 0, found {value}")
