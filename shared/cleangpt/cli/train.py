"""`cleangpt train`: trains a tokenizer and a model on text, with history, curves and checkpoints."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cleangpt.cli.options import command
from cleangpt.cli.train_options import TrainOptions
from cleangpt.errors import UsageError

if TYPE_CHECKING:
    import torch

    from cleangpt.cli.materials import Materials
    from cleangpt.cli.repeating import Leg
    from cleangpt.trainers import Callback, Checkpoints, History
    from cleangpt.trainers.processes import Processes

INTERRUPTED = 130
"""Exit code of a training that Ctrl-C or SIGTERM ended; its checkpoint is on disk."""


def run(options: TrainOptions) -> int | None:
    """Under torchrun several processes share each batch. --resume continues a training, perhaps with more steps."""
    # import torch, transformers and matplotlib late, so that --help is quick
    from cleangpt.cli.repeating import Leg, RepeatTraining
    from cleangpt.model.device import device_of
    from cleangpt.trainers import Checkpoints
    from cleangpt.trainers.processes import joined

    if Checkpoints(options.out / "checkpoint").last.exists() and not options.resume:
        raise UsageError(
            f"{options.out} already holds a training; use --resume, or name another directory to start again"
        )
    repeat = RepeatTraining(options, options.from_run) if options.from_run is not None else None
    device = device_of(options.device)
    with joined(device) as processes:
        if repeat is not None:
            repeat.check_processes(processes.count)
        for leg in [Leg(options)] if repeat is None else repeat.legs():
            code = _train(leg, device, processes, [] if repeat is None else [repeat])
            if code is not None:
                return code
    if repeat is not None and processes.is_first:
        print(repeat.result())
    return None


def _train(leg: "Leg", device: "torch.device", processes: "Processes", callbacks: "Sequence[Callback]") -> int | None:
    """Trains, and writes the model if that was the last leg. The exit code if a signal ended it."""
    from cleangpt.cli.environment import environment
    from cleangpt.cli.materials import gather
    from cleangpt.cli.recording import RecordRun
    from cleangpt.cli.repeating import StopAt
    from cleangpt.cli.stopping import StopOnSignal
    from cleangpt.trainers import Checkpoints, Training, train
    from cleangpt.trainers.processes import own_device

    options = leg.options
    settings = options.training
    checkpoints = Checkpoints(
        options.out / "checkpoint", every_seconds=options.checkpoint_seconds, longer=options.resume
    )
    materials = gather(options)
    stopping, recording = StopOnSignal(), RecordRun("train", options, environment(device, processes))
    until = [] if leg.until is None else [StopAt(leg.until)]
    training = Training(
        model=materials.model,
        data=materials.text.data,
        settings=settings,
        validation=materials.text.validation,
        checkpoints=replace(checkpoints, made_from=materials.made_from),
        callbacks=[*callbacks, stopping, recording, *until, *_callbacks(options)],
        device=device,
    )
    history = train(training)
    is_stopped = processes.any(stopping.came, own_device(device))
    if not processes.is_first:
        return None
    if is_stopped:
        print(f"{options.out}: stopped after step {history.step}; run the same command with --resume to continue")
        return INTERRUPTED
    if leg.until is None:
        _write(options, materials, checkpoints, history)
        recording.finish()
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
    from cleangpt.writing import replacing_files
    from splitlearn.model.plan import FEWEST_LAYERS

    line = f"loss {history.losses[-1]:.4f}"
    if history.best is not None:
        step = load_best(checkpoints, materials.model)
        line += f", validation loss {history.best.loss:.4f} (the model of step {step} of {history.step})"
    if materials.lora is not None:
        materials.lora.merge_and_unload()
    parameters = sum(each.numel() for each in materials.model.parameters())
    disable_progress_bar()
    with replacing_files(options.out) as partial:
        materials.model.to("cpu", getattr(torch, options.dtype)).save_pretrained(partial)
        materials.tokenizer.save_pretrained(partial)
        materials.text.record.write(partial)
        if materials.questions:
            write_trained_on(partial, materials.questions)
    parts = options.out.with_name(f"{options.out.name}-parts")
    print(f"{options.out}: {parameters / 1e6:.2f} million parameters, {line}")
    if materials.model.config.num_hidden_layers < FEWEST_LAYERS:
        print(f"it has fewer than {FEWEST_LAYERS} layers, and so no middle that a trunk could serve")
        return
    print(f"next:  splitlearn convert {options.out} --out {parts}{_trunk_of(options)}")
    print(f"       splitlearn up {parts}")


def _trunk_of(options: TrainOptions) -> str:
    """What `convert` has to be told of a model whose frozen layers a trunk serves."""
    if options.freeze_layers is None or options.init_from is None:
        return ""
    is_converted = (options.init_from / "manifest.json").exists()
    return f" --trunk-of {options.init_from if is_converted else 'DIR_THAT_THE_TRUNK_SERVES'}"


train = command(TrainOptions, run)
train.__doc__ = run.__doc__
