"""`splitlearn client`: the client service in this process."""

from client_service.settings import ClientSettings as Settings
from splitlearn_cli.signals import stopped_by_signals

__all__ = ["Settings", "run"]


def run(settings: Settings) -> None:
    """Runs until Ctrl-C or SIGTERM. Text, token ids and logits stay in this process."""
    with stopped_by_signals():
        from client_service import app

        app.run(settings)
