"""`cleangpt train`: trains a tokenizer and a model on text, with history, curves and checkpoints."""

from dataclasses import replace
from typing import TYPE_CHECKING

from cleangpt.cli.options import command
from cleangpt.cli.train_options import TrainOptions
from cleangpt.errors import UsageError

if TYPE_CHECKING:
    from cleangpt.cli.materials import Materials
    from cleangpt.trainers import Callback, Checkpoints, History

INTERRUPTED = 130
"""Exit code of a training that Ctrl-C or SIGTERM ended; its checkpoint is on disk."""


def run(options: TrainOptions) -> int | None:
    """Under torchrun several processes share each batch. --resume continues a training, perhaps with more steps."""
    # import torch, transformers and matplotlib late, so that --help is quick
    import torch

    from cleangpt.cli.materials import gather
    from cleangpt.cli.stopping import StopOnSignal
    from cleangpt.trainers import Checkpoints, Training, train
    from cleangpt.trainers.processes import joined, own_device

    settings = options.training
    checkpoints = Checkpoints(
        options.out / "checkpoint", every_seconds=options.checkpoint_seconds, longer=options.resume
    )
    if checkpoints.last.exists() and not options.resume:
        raise UsageError(
            f"{options.out} already holds a training; use --resume, or name another directory to start again"
        )
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    materials = gather(options)
    stopping = StopOnSignal()
    training = Training(
        model=materials.model,
        data=materials.text.data,
        settings=settings,
        validation=materials.text.validation,
        checkpoints=replace(checkpoints, made_from=materials.made_from),
        callbacks=[stopping, *_callbacks(options)],
        device=device,
    )
    with joined(device) as processes:
        history = train(training)
        is_stopped = processes.any(stopping.came, own_device(device))
    if not processes.is_first:
        return None
    if is_stopped:
        print(f"{options.out}: stopped after step {history.step}; run the same command with --resume to continue")
        return INTERRUPTED
    _write(options, materials, checkpoints, history)
    return None


def _callbacks(options: TrainOptions) -> "list[Callback]":
    from cleangpt.trainers import CurvesPlot, EarlyStop, HistoryFile, Mlflow, ProgressBar, TensorBoard

    found: list[Callback] = [
        ProgressBar(),
        HistoryFile(options.out / "history.json"),
        HistoryFile(options.out / "history.csv"),
        CurvesPlot(options.out / "curves.png"),
    ]
    if options.patience is not None:
        found.append(EarlyStop(options.patience))
    if options.tensorboard:
        found.append(TensorBoard(options.out / "tensorboard"))
    if options.mlflow:
        found.append(Mlflow(options.out))
    return found


def _write(options: TrainOptions, materials: "Materials", checkpoints: "Checkpoints", history: "History") -> None:
    """Writes the model with the lowest validation loss if there was validation, else the last one."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from cleangpt.evaluation.trained_on import write_trained_on
    from cleangpt.trainers.checkpoint import load_best
    from cleangpt.writing import named_where_not_written
    from splitlearn.model.plan import FEWEST_LAYERS

    line = f"loss {history.losses[-1]:.4f}"
    if history.best is not None:
        step = load_best(checkpoints, materials.model)
        line += f", validation loss {history.best.loss:.4f} (the model of step {step} of {history.step})"
    parameters = sum(each.numel() for each in materials.model.parameters())
    disable_progress_bar()
    with named_where_not_written(options.out):
        materials.model.to("cpu", getattr(torch, options.dtype)).save_pretrained(options.out)
        materials.tokenizer.save_pretrained(options.out)
    materials.text.record.write(options.out)
    if materials.questions:
        write_trained_on(options.out, materials.questions)
    parts = options.out.with_name(f"{options.out.name}-parts")
    print(f"{options.out}: {parameters / 1e6:.2f} million parameters, {line}")
    if materials.model.config.num_hidden_layers < FEWEST_LAYERS:
        print(f"it has fewer than {FEWEST_LAYERS} layers, and so no middle that a trunk could serve")
        return
    print(f"next:  splitlearn convert {options.out} --out {parts}")
    print(f"       splitlearn up {parts}")


train = command(TrainOptions, run)
train.__doc__ = run.__doc__
