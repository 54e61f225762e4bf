"""`splitlearn trunk`: the trunk service in this process."""

from splitlearn_cli.signals import stopped_by_signals
from splitlearn_cli.terminal import bytes_bar
from splitlearn_trunk.settings import TrunkSettings as Settings

__all__ = ["Settings", "run"]


def run(settings: Settings) -> None:
    """Runs until Ctrl-C or SIGTERM. Needs only the files of its own layers, and never sees text."""
    with stopped_by_signals():
        from splitlearn_trunk import app

        app.run(settings, bytes_bar)
