"""The model of `splitlearn demo`: a directory of parts. The wheel `splitlearn-demo-model` is made of it."""

from pathlib import Path

DIRECTORY = Path(__file__).parent
