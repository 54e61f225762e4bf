"""Distills students and shadows according to the options of `cleangpt distill`."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from cleangpt.cli.distill_options import DistillOptions
from cleangpt.config import GPTConfig
from cleangpt.data import Cutting, Reading, read_source, reading_of
from cleangpt.data.text_record import DEFAULT_HELD_OUT
from cleangpt.distillation.addresses import address_alone
from cleangpt.distillation.blocks import Blocks
from cleangpt.distillation.distillation_trainer import STUDENT_FOLDER, DistillationResults, DistillationTrainer
from cleangpt.distillation.losses import HiddenStateLoss, LogitLoss
from cleangpt.distillation.shadow_trainer import SHADOW_FOLDER, ShadowTrainer
from cleangpt.distillation.trunks import OpenTrunk, opened
from cleangpt.errors import UsageError
from cleangpt.evaluation.model_folder import load_model
from cleangpt.model import get_model
from cleangpt.model.context import context_of
from cleangpt.model.device import device_of
from cleangpt.model.shadow import Shadow, ShadowConfig
from cleangpt.tokenizers import BaseTokenizer, create_tokenizer
from cleangpt.tokenizers.hugging_face import HuggingFaceTokenizer
from cleangpt.trainers import Callback, History, ProgressBar, TrainingSettings
from cleangpt.trainers.plots import draw_curves
from cleangpt.trainers.random_streams import torch_seed

LONGEST_ROW = 256
CURVES_FILE = "curves.png"


def distil_student(options: DistillOptions, callbacks: Sequence[Callback] = ()) -> None:
    """Distills a student, writes its folder and prints the commands to continue with."""
    if options.teacher is None:
        raise UsageError("a student needs --teacher")
    disable_progress_bar()
    teacher, fast = load_model(options.teacher)
    tokenizer = HuggingFaceTokenizer(fast)
    student = new_student(options, teacher, tokenizer)
    text = text_to_read(options, tokenizer, context_of(student))
    trainer = _student_trainer(options, teacher, student, fast, text, callbacks)
    results = _fitted(options, trainer)
    stages = {f"block {number}": history for number, history in enumerate(results.blocks)}
    named = {"head": results.head, "end to end": results.end_to_end}
    stages |= {name: history for name, history in named.items() if history is not None}
    folder = options.out / STUDENT_FOLDER
    text.record.write(folder)
    sizes = [model.num_parameters() for model in (student, teacher)]
    print(_summary(folder, sizes[0], f"{sizes[0] / sizes[1]:.1%} of the teacher's", stages, options.out))
    parts = options.out / "parts"
    _print_next(
        ["cleangpt", "evaluate", folder, "--teacher", options.teacher, *_text_flags(options, text)],
        ["splitlearn", "convert", folder, "--out", parts],
    )


def _student_trainer(
    options: DistillOptions,
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    fast: PreTrainedTokenizerFast,
    text: Reading,
    callbacks: Sequence[Callback],
) -> DistillationTrainer:
    return DistillationTrainer(
        teacher_model=teacher,
        student_model=student,
        tokenizer=fast,
        train_dataloader=text.data,
        device=device_of(options.device),
        output_dir=options.out,
        use_stitching_layers=options.use_stitching_layers,
        stitching_layer_bias=options.stitching_layer_bias,
        hidden_state_loss_type=options.hidden_state_loss_type,
        hidden_state_temperature=options.hidden_state_temperature,
        logit_loss_type=options.logit_loss_type,
        temperature=options.temperature,
        logit_loss_weight=options.logit_loss_weight,
        freeze_previous_blocks=options.freeze_previous_blocks,
        settings=_settings(options),
        head_settings=_head_settings(options),
        validation_dataloader=text.validation,
        callbacks=[*callbacks, ProgressBar()],
    )


def _fitted(options: DistillOptions, trainer: DistillationTrainer) -> DistillationResults:
    start = {
        "initialize_head_from_teacher": options.initialize_head_from_teacher,
        "initialize_student_from_teacher": options.initialize_student_from_teacher,
    }
    if options.end_to_end_epochs:
        return trainer.train_end_to_end(options.end_to_end_epochs, options.lr_per_block[0], **start)
    return trainer.train(
        epochs_per_block=options.epochs_per_block,
        lr_per_block=options.lr_per_block,
        train_lm_head=options.train_lm_head,
        lm_head_epochs=options.lm_head_epochs,
        lm_head_lr=options.lm_head_lr,
        **start,
    )


def distil_shadow(options: DistillOptions, callbacks: Sequence[Callback] = ()) -> None:
    """Distills a shadow, writes its folder and prints the command to continue with."""
    if options.weights is None:
        raise UsageError("a shadow needs --weights")
    disable_progress_bar()
    with opened(options.weights, options.layers, options.trunk, options.trunk_wait) as trunk:
        tokenizer = create_tokenizer(str(options.weights))
        text = text_to_read(options, tokenizer, trunk.ends.bottom.context_length)
        shadow = new_shadow(options, trunk)
        trainer = ShadowTrainer(
            trunk.ends,
            trunk.teacher,
            shadow,
            text.data,
            options.out,
            _settings(options),
            callbacks=[*callbacks, ProgressBar()],
            validation_data=text.validation,
        )
        results = trainer.train(
            options.epochs_per_block,
            options.lm_head_epochs if options.train_lm_head else 0,
            options.lr_per_block,
            logit_lr=options.lm_head_lr,
            hidden_loss=HiddenStateLoss(options.hidden_state_loss_type, temperature=options.hidden_state_temperature),
            logit_loss=LogitLoss(options.logit_loss_type, options.temperature, weight=options.logit_loss_weight),
        )
        share = "its trunk is elsewhere"
        if trunk.part is not None:
            share = f"{shadow.n_parameters / sum(each.numel() for each in trunk.part.parameters()):.1%} of the trunk's"
    folder = options.out / SHADOW_FOLDER
    text.record.write(folder)
    print(_summary(folder, shadow.n_parameters, share, results.stages, options.out))
    which = [
        *(["--layers", options.layers] if options.layers else []),
        *(["--trunk", _without_secrets(options.trunk)] if options.trunk else []),
    ]
    _print_next(["cleangpt", "evaluate", folder, "--teacher", options.weights, *which, *_text_flags(options, text)])


def _without_secrets(trunk: str) -> str:
    """The command is shown: of a token and a fingerprint it has the names alone."""
    address = address_alone(trunk)
    return address if address == trunk else f"{address}#TOKEN.FINGERPRINT"


def new_student(options: DistillOptions, teacher: PreTrainedModel, tokenizer: BaseTokenizer) -> PreTrainedModel:
    """A newly initialized model with the teacher's vocabulary; sizes default to the teacher's.

    An option `student_...` is the field of GPTConfig behind that prefix; None leaves it to the teacher.

    Raises:
        ModelUnknownError, BadConfigError, ModelOptionError: there is no such model, or it cannot have these sizes or
            options.
    """
    config = teacher.config.get_text_config(decoder=True)
    fast = tokenizer.fast
    teachers = {
        "block_size": context_of(teacher) or options.block_size or LONGEST_ROW,
        "vocab_size": Blocks(teacher).vocab_size,
        "n_layer": config.num_hidden_layers,
        "n_head": config.num_attention_heads,
        "n_embd": config.hidden_size,
        "bos_token_id": fast.bos_token_id,
        "eos_token_id": fast.eos_token_id,
        "pad_token_id": fast.pad_token_id,
    }
    prefixed = {each.name: f"student_{each.name}" for each in fields(GPTConfig)}
    chosen = {name: getattr(options, option, None) for name, option in prefixed.items()}
    given = {name: value for name, value in chosen.items() if value is not None}
    torch.manual_seed(torch_seed(options.seed))
    return get_model(options.student_model_type, config=GPTConfig(**{**teachers, **given}))


def new_shadow(options: DistillOptions, trunk: OpenTrunk) -> Shadow:
    """A newly initialized shadow, which passes its input through. Raises ShadowTooLargeError, UsageError."""
    width = options.student_n_embd or trunk.ends.bottom.hidden_size
    n_head = options.student_n_head or 4
    if width % n_head:
        raise UsageError(f"--student-n-embd has to be a multiple of --student-n-head, found {width} and {n_head}")
    shape: dict[str, Any] = {
        "hidden_size": trunk.ends.bottom.hidden_size,
        "width": width,
        "num_hidden_layers": 1 if options.student_n_layer is None else options.student_n_layer,
        "num_attention_heads": n_head,
        "max_position_embeddings": trunk.ends.bottom.context_length or LONGEST_ROW,
    }
    torch.manual_seed(torch_seed(options.seed))
    if options.student_parameters is not None:
        return Shadow(ShadowConfig.within(options.student_parameters, **shape))
    return Shadow(ShadowConfig(intermediate_size=2 * width, **shape))


def text_to_read(options: DistillOptions, tokenizer: BaseTokenizer, context: int | None) -> Reading:
    """The text as rows that fit the models' context. Raises TextError, TokenizerError, UsageError."""
    row = options.block_size or min(LONGEST_ROW, context or LONGEST_ROW)
    if context is not None and row > context:
        raise UsageError(f"--block-size {row} is longer than the {context} positions of the model")
    cutting = Cutting(
        block_size=row,
        batch_size=options.batch_size,
        context=row,
        batch_tokens=options.batch_size * row,
        seed=options.seed,
        validation=options.validation,
        parse_special_tokens=options.parse_special_tokens,
    )
    found = read_source(options.data, column=options.column, split=options.split, max_samples=options.max_samples)
    return reading_of(found, options.data, tokenizer, cutting)


def _settings(options: DistillOptions) -> TrainingSettings:
    return TrainingSettings(
        epochs=1,
        weight_decay=options.weight_decay,
        clip_norm=options.clip_norm or None,
        bf16_autocast=options.bf16,
        seed=options.seed,
        evaluate_every=options.evaluate_every,
    )


def _head_settings(options: DistillOptions) -> TrainingSettings:
    decay, norm = options.lm_head_weight_decay, options.lm_head_clip_norm
    settings = _settings(options)
    return replace(
        settings,
        weight_decay=settings.weight_decay if decay is None else decay,
        clip_norm=settings.clip_norm if norm is None else norm or None,
    )


def _summary(folder: Path, parameters: int, share: str, stages: Mapping[str, History], output_dir: Path) -> str:
    """Plots the losses, and returns a one-line summary of the fit."""
    draw_curves(stages, output_dir / CURVES_FILE)
    ends = ", ".join(f"{name} {_first_and_last(history)}" for name, history in stages.items())
    return f"{folder}: {parameters / 1e6:.2f} million parameters ({share}); losses: {ends}"


def _first_and_last(history: History) -> str:
    validation = f" (validation {history.evaluations[-1].loss:.4f})" if history.evaluations else ""
    return f"{history.losses[0]:.4f} to {history.losses[-1]:.4f}{validation}"


def _text_flags(options: DistillOptions, text: Reading) -> list[str | Path]:
    """What makes an evaluation read the same text, and of it what was held out."""
    column, n = options.column, options.max_samples
    flags: list[str | Path] = ["--data", options.data, *(["--column", column] if column != "text" else [])]
    if options.split != "train":
        flags += ["--split", options.split]
    if n is not None:
        flags += ["--max-samples", str(n)]
    if options.parse_special_tokens:
        flags += ["--parse-special-tokens"]
    share = DEFAULT_HELD_OUT if options.validation is None else options.validation
    return [*flags, *(["--validation", f"{share:g}"] if text.record.held_out else [])]


def _print_next(*commands: list[str | Path]) -> None:
    for number, words in enumerate(commands):
        print("next:  " if number == 0 else "       ", shlex.join(map(str, words)), sep="")
