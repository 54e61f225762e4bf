"""The trainer that runs exactly the caller's callbacks."""

from collections.abc import Sequence

from cleangpt.trainers.base_trainer import BaseTrainer
from cleangpt.trainers.callbacks import Callback


class CallbackTrainer(BaseTrainer):
    """A trainer that runs the loop with only the options' callbacks; without any it prints nothing."""

    def callbacks(self) -> Sequence[Callback]:
        """The options' callbacks."""
        return tuple(self.options.callbacks)
