"""The trainer whose surroundings are the caller's: exactly the callbacks that it is given."""

from collections.abc import Sequence

from cleangpt.trainers.base_trainer import BaseTrainer
from cleangpt.trainers.callbacks import Callback


class CallbackTrainer(BaseTrainer):
    """Runs the loop with the options' callbacks alone; without any it is silent."""

    def callbacks(self) -> Sequence[Callback]:
        """The given ones."""
        return tuple(self.options.callbacks)
