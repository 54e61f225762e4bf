"""The trainer for a quick look: the loop with a progress bar and nothing else to set up."""

from collections.abc import Sequence

from cleangpt.trainers.base_trainer import BaseTrainer
from cleangpt.trainers.callbacks import Callback, ProgressBar


class SimpleTrainer(BaseTrainer):
    """Shows a progress bar; the options' callbacks come after it."""

    def callbacks(self) -> Sequence[Callback]:
        """The progress bar, then the given ones."""
        return (ProgressBar(), *self.options.callbacks)
