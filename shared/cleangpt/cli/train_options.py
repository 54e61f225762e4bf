"""The options of `cleangpt train`, from the command line or a TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cleangpt.cli.options import flag, names_given, names_to_unset, refuse_huge, refuse_infinite, spelled, table
from cleangpt.cli.run_record import settings_from
from cleangpt.errors import UsageError

if TYPE_CHECKING:
    from cleangpt.trainers import Schedule, TrainingSettings


# never to clip, and no checkpoint but the one at the end
_MAY_BE_INFINITE = ("clip_norm", "checkpoint_seconds")


settings_of = settings_from("train", "data", "init_from", "tokenizer_type")
"""Reads the settings of a training from its directory."""


@dataclass(frozen=True)
class TrainOptions:
    """The options. Each field is a flag of the same name and a key of the settings file. Raises UsageError."""

    data: str = flag(
        "What to train on: a file (text, .jsonl, .parquet), a folder, a dataset on disk, or the name of a source.",
        document="dataset",
    )
    out: Path = flag(  # noqa: RUF009
        "Directory to write: model, tokenizer, history, curves.png, checkpoint/.", document="output_dir"
    )
    from_run: Path | None = flag(  # noqa: RUF009
        "Directory of a training to repeat to the bit, into --out; flags given beside it make it another one.",
        None,
        document="from",
        source=settings_of,
    )
    unset: tuple[str, ...] = names_to_unset("With --from: options of the run to leave at their defaults.")
    column: str = flag("Column of records; if it holds lists of messages, they are learned as conversations.", "text")
    split: str = flag("Split of a dataset on disk.", "train")
    max_samples: int | None = flag("Train on the first texts alone.", None)
    tokenizer_type: str = flag("bpe or character, trained on the data; gpt2; or a folder with a tokenizer.", "bpe")
    vocab_size: int | None = flag("Most entries of a bpe tokenizer trained on the data.", None)
    model_type: str = flag("Vanilla, SASP, Factored, FactoredALiBi, or transformers' own: qwen3, llama ...", "Vanilla")
    init_from: Path | None = flag(  # noqa: RUF009
        "Folder of a saved model to start from, with its own tokenizer unless another is given.", None
    )
    freeze_layers: str | None = flag(
        "With --init-from: layers START-END, END not included, whose weights stay as they are: those of a trunk.", None
    )
    new_ends: bool = flag("With --freeze-layers: draw all other weights anew, from the seed.", False)
    lora_rank: int | None = flag(
        "With --freeze-layers: learn updates of this rank of the other layers' linear weights, and nothing else.", None
    )
    lora_alpha: int | None = flag("The updates count alpha / rank times. Default: the rank.", None)
    n_layer: int = flag("Layers.", 6)
    n_head: int = flag("Attention heads.", 6)
    n_embd: int = flag("Hidden size.", 384)
    block_size: int = flag("Context in tokens.", 256)
    dropout: float = flag("Share of activations to drop, in models registered here.", 0.0)
    bias: bool = flag("Biases in linear layers and norms, in models registered here.", True)
    alibi: bool = flag("Linear biases in place of learned positions, in models registered here.", False)
    skip_connections: bool = flag("In SASP: add a layer's input to its output.", False)
    value_projection: bool = flag("In SASP: let heads read a projection of the rows.", False)
    output_projection: bool = flag("In SASP: project what heads wrote.", True)
    head_mixing: bool = flag("In Factored and FactoredALiBi: weigh heads against each other.", True)
    batch_size: int = flag("Blocks per batch.", 16)
    batch_tokens: int = flag("Tokens per batch, padding included, where the data are conversations.", 1024)
    max_steps: int | None = flag("Optimizer steps to train.", None)
    epochs: int | None = flag(
        "Passes over the data; one where --max-steps is not given either.", None, document="num_epochs"
    )
    lr: float = flag("Highest learning rate.", 1e-3, document="learning_rate")
    schedule: Literal["cosine", "wsd"] = flag("Cosine, or warm-up, plateau and linear decay.", "cosine")
    warmup: int = flag("Steps of warm-up.", 100)
    decay: float = flag("Share of all steps in which wsd decays.", 0.2)
    min_lr: float = flag("Share of --lr at which cosine ends.", 0.1)
    weight_decay: float = flag("AdamW's weight decay of matrices.", 0.1)
    clip_norm: float = flag("Largest norm of the gradient; 0 does not clip.", 1.0)
    accumulate: int = flag("Batches per optimizer step.", 1)
    bf16: bool = flag("Compute in bfloat16 where torch's autocast says so.", False)
    compile: bool = flag("Compile the model with torch.compile.", False)
    device: str | None = flag("cpu, cuda, cuda:1 ... Default: a GPU if there is one.", None)
    seed: int = flag("Of weights, order and dropout.", 0)
    parse_special_tokens: bool = flag("A special token that is spelled in the text, like <|end|>, becomes it.", False)
    validation: float | None = flag(
        "Share at the end of the text or conversations to validate on; 0 for none. Default: 0.05; of the "
        "interpreter's questions none.",
        None,
    )
    evaluate_every: int = flag("Steps between two evaluations.", 200)
    patience: int | None = flag("Stop after this many evaluations without a lower loss.", None)
    checkpoint_seconds: float = flag("Seconds between two checkpoints.", 60.0)
    tensorboard: bool = flag("Write TensorBoard events to DIR/tensorboard.", False)
    mlflow: bool = flag("Record the run with MLflow: in DIR/mlflow.db, or at $MLFLOW_TRACKING_URI.", False)
    dtype: Literal["float32", "bfloat16", "float16"] = flag("Of the weights that are written.", "float32")
    resume: bool = flag("Go on from the checkpoint in DIR, if there is one, perhaps for longer.", False)
    model: Mapping[str, Any] = table("Further fields of the model's config.")
    given: frozenset[str] = names_given()

    def __post_init__(self) -> None:
        refuse_huge(self, but={"seed"})
        refuse_infinite(self, but=_MAY_BE_INFINITE)
        if self.epochs is not None and self.max_steps is not None:
            raise UsageError(
                "--epochs and --max-steps both say when the training ends; give one of them (of a run that is "
                "repeated, --unset the other)"
            )
        if self.freeze_layers is not None and self.init_from is None:
            raise UsageError("--freeze-layers keeps weights of the model that --init-from names; give both")
        if self.new_ends and self.freeze_layers is None:
            raise UsageError("--new-ends draws all weights anew but those of --freeze-layers; give both")
        self._check_lora()
        for name in ("lr", "batch_size", "batch_tokens", "checkpoint_seconds"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{spelled(name)} has to be above 0, found {getattr(self, name)}")
        for name in ("decay", "min_lr", "validation"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise UsageError(f"{spelled(name)} is a share between 0 and 1, found {getattr(self, name)}")
        for name in ("patience", "max_samples", "vocab_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{spelled(name)} has to be 1 or more, found {value}")

    def _check_lora(self) -> None:
        if self.lora_rank is None:
            if self.lora_alpha is not None:
                raise UsageError("--lora-alpha scales the updates of --lora-rank; give both")
            return
        if self.freeze_layers is None or self.new_ends:
            raise UsageError(
                "--lora-rank updates the layers around those of --freeze-layers, from what --init-from has: give both, "
                "and no --new-ends"
            )
        for name, default in (("lora_rank", "to train all weights of the ends"), ("lora_alpha", "for the rank")):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{spelled(name)} has to be 1 or more, found {value}; leave it out {default}")

    @property
    def training(self) -> "TrainingSettings":
        """The settings that determine the results of the training. Raises TrainingSettingsError."""
        from cleangpt.trainers import TrainingSettings

        return TrainingSettings(
            epochs=1 if self.epochs is None and self.max_steps is None else self.epochs,
            max_steps=self.max_steps,
            schedule=self._schedule(),
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm or None,
            accumulate=self.accumulate,
            bf16_autocast=self.bf16,
            compile=self.compile,
            seed=self.seed,
            evaluate_every=self.evaluate_every,
        )

    def _schedule(self) -> "Schedule":
        from cleangpt.trainers import WarmupCosine, WarmupStableDecay

        if self.schedule == "wsd":
            return WarmupStableDecay(self.lr, self.warmup, self.decay)
        return WarmupCosine(self.lr, self.warmup, self.min_lr)
