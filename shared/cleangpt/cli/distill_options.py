"""The options of `cleangpt distill`, from the command line or a TOML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cleangpt.cli.options import flag, spelled
from cleangpt.config import OWN_OPTIONS
from cleangpt.errors import UsageError

_OF_SHADOWS = ("weights", "layers", "trunk", "student_parameters")
_OF_STUDENTS = ("teacher", "end_to_end_epochs", "device", *(f"student_{option}" for option in OWN_OPTIONS))


@dataclass(frozen=True)
class DistillOptions:
    """The options. Each field is a flag of the same name and a key of the settings file. Raises UsageError."""

    data: str = flag(
        "What to distil on: a text file, a folder, a dataset on disk, or the name of a source.", document="dataset_name"
    )
    out: Path = flag(  # noqa: RUF009
        "Directory to write: student/ or shadow/, history.json, curves.png, checkpoints/.", document="output_dir"
    )
    teacher: Path | None = flag(  # noqa: RUF009
        "Folder of the teacher, with its tokenizer.", None, document="teacher_model_name_or_path"
    )
    shadow: bool = flag("Distil the trunk of a split model in place of a whole model.", False)
    weights: Path | None = flag("With --shadow: the sepweight directory with bottom and top.", None)  # noqa: RUF009
    layers: str | None = flag("With --shadow: the trunk's layers, such as 2-22. Default: the usual cut.", None)
    trunk: str | None = flag("With --shadow: HOST:PORT of the trunk. Default: its layers in --weights.", None)
    trunk_wait: float = flag("With --trunk: seconds to wait for a trunk that is still starting.", 60.0)
    student_model_type: str = flag("Vanilla, SASP, Factored or FactoredALiBi.", "Vanilla")
    student_n_embd: int | None = flag("Hidden size. Default: the teacher's.", None)
    student_n_head: int | None = flag("Attention heads. Default: the teacher's; of a shadow 4.", None)
    student_n_layer: int | None = flag("Layers. Default: the teacher's; of a shadow 1.", None)
    student_skip_connections: bool = flag("In SASP: add a layer's input to its output.", False)
    student_value_projection: bool = flag("In SASP: let heads read a projection of the rows.", False)
    student_output_projection: bool = flag("In SASP: project what heads wrote.", True)
    student_head_mixing: bool = flag("In Factored and FactoredALiBi: weigh heads against each other.", True)
    student_parameters: int | None = flag("With --shadow: its MLPs are as wide as this allows.", None)
    column: str = flag("Column of a dataset on disk.", "text", document="dataset_text_column")
    max_samples: int | None = flag("Distil on the first texts alone.", None)
    parse_special_tokens: bool = flag("A special token that is spelled in the text, like <|end|>, becomes it.", False)
    validation: float | None = flag(
        "Share at the end of the text to hold out; 0 for none. Default: 0.05 of text.", None
    )
    block_size: int | None = flag("Tokens of a row. Default: what the teacher takes, up to 256.", None)
    batch_size: int = flag("Rows of a batch.", 16)
    epochs_per_block: int = flag("Passes over the data for each block, or for each layer of a shadow.", 1)
    lr_per_block: float = flag("Highest learning rate.", 1e-3)
    train_lm_head: bool = flag("Fit norm and head after the blocks; of a shadow all of it, by the logits.", True)
    lm_head_epochs: int = flag("Passes over the data for that.", 1)
    end_to_end_epochs: int = flag("Fit the whole student by the logits this many passes, instead of block by block.", 0)
    use_stitching_layers: bool = flag("Linear maps between unequal widths.", True)
    hidden_state_loss_type: Literal["mse", "cosine", "mix"] = flag("Between hidden states.", "mse")
    logit_loss_type: Literal["kl_div", "cross_entropy", "mix"] = flag("Between predictions.", "kl_div")
    temperature: float = flag("Of the divergence.", 1.0)
    bf16: bool = flag("Compute in bfloat16 where torch's autocast says so.", False)
    device: str | None = flag("cpu, cuda ... Default: a GPU if there is one. A shadow is fitted on the CPU.", None)
    seed: int = flag("Of weights and order.", 0)

    def __post_init__(self) -> None:
        if self.shadow and self.weights is None:
            raise UsageError("--shadow needs --weights, the sepweight directory that bottom and top are in")
        if not self.shadow and self.teacher is None:
            raise UsageError("give --teacher, or --shadow with --weights")
        for name in _OF_STUDENTS if self.shadow else _OF_SHADOWS:
            if getattr(self, name) != getattr(type(self), name):
                raise UsageError(f"{spelled(name)} {'does not go with' if self.shadow else 'is for'} --shadow")
        for name in ("batch_size", "lr_per_block", "temperature", "max_samples", "student_parameters", "block_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{spelled(name)} has to be above 0, found {value}")
        for name in ("student_n_embd", "student_n_head", "student_n_layer"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{spelled(name)} has to be 1 or more, found {value}")
        if self.validation is not None and not 0 <= self.validation < 1:
            raise UsageError(f"--validation is a share of the text from 0 up to 1, found {self.validation}")
        if self.train_lm_head and not self.shadow and not self.end_to_end_epochs and not self.lm_head_epochs:
            raise UsageError("--lm-head-epochs is 0; to leave the head as it is give --no-train-lm-head")
        if not self.epochs_per_block and not self.end_to_end_epochs and not (self.shadow and self.train_lm_head):
            raise UsageError("--epochs-per-block is 0, so nothing would be fitted; give at least 1")
        for name in ("epochs_per_block", "lm_head_epochs", "end_to_end_epochs"):
            if getattr(self, name) < 0:
                raise UsageError(f"{spelled(name)} cannot be below 0, found {getattr(self, name)}")
