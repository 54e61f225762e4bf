"""The trainer for quick runs: the loop with a progress bar and nothing else to set up."""

from collections.abc import Sequence

from cleangpt.trainers.base_trainer import BaseTrainer
from cleangpt.trainers.callbacks import Callback, ProgressBar


class SimpleTrainer(BaseTrainer):
    """A trainer that shows a progress bar and then calls the options' callbacks."""

    def callbacks(self) -> Sequence[Callback]:
        """The progress bar, then the options' callbacks."""
        return (ProgressBar(), *self.options.callbacks)
