"""Training: the loop, trainers by name, callbacks, checkpoints and schedules."""

from cleangpt.trainers.base_trainer import BaseTrainer, TrainerOptions
from cleangpt.trainers.callbacks import Callback, CurvesPlot, EarlyStop, HistoryFile, ProgressBar, Run
from cleangpt.trainers.checkpoint import Checkpoints
from cleangpt.trainers.history import Evaluation, History
from cleangpt.trainers.loop import Training, train
from cleangpt.trainers.measuring import Measurement
from cleangpt.trainers.objective import Objective, learned_loss
from cleangpt.trainers.registry import TRAINER_REGISTRY, get_trainer, register_trainer
from cleangpt.trainers.schedule import Schedule, WarmupCosine, WarmupStableDecay
from cleangpt.trainers.settings import TrainingSettings
from cleangpt.trainers.trackers import Mlflow, TensorBoard

__all__ = [
    "TRAINER_REGISTRY",
    "BaseTrainer",
    "Callback",
    "Checkpoints",
    "CurvesPlot",
    "EarlyStop",
    "Evaluation",
    "History",
    "HistoryFile",
    "Measurement",
    "Mlflow",
    "Objective",
    "ProgressBar",
    "Run",
    "Schedule",
    "TensorBoard",
    "TrainerOptions",
    "Training",
    "TrainingSettings",
    "WarmupCosine",
    "WarmupStableDecay",
    "get_trainer",
    "learned_loss",
    "register_trainer",
    "train",
]
