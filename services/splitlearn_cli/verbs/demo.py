"""`splitlearn demo`: `up` with the demo model, which is a package of its own."""

from pydantic_settings import SettingsConfigDict

from splitlearn_cli.verbs.up import PairSettings, serve


class Settings(PairSettings):
    """The settings of `up`, without the model."""

    model_config = SettingsConfigDict(
        env_prefix="SPLITLEARN_DEMO_", frozen=True, extra="forbid", hide_input_in_errors=True
    )


def run(settings: Settings) -> None:
    """As `up`: prints one answer and the chat page's address, and serves until Ctrl-C.

    The model has memorised docstrings of Python's standard library, and knows nothing else.
    """
    from splitlearn_demo_model import DIRECTORY

    serve(DIRECTORY, settings)
