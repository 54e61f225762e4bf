"""`splitlearn client`: the client service in this process."""

from splitlearn_cli.signals import stopped_by_signals
from splitlearn_cli.terminal import bytes_bar
from splitlearn_client.settings import ClientSettings as Settings

__all__ = ["Settings", "run"]


def run(settings: Settings) -> None:
    """Runs until Ctrl-C or SIGTERM. Text, token ids and logits stay in this process."""
    with stopped_by_signals():
        from splitlearn_client import app

        app.run(settings, bytes_bar)
