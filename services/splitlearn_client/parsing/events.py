"""What an output is taken apart into.

Pure.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Content:
    """A piece of what the model says."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """A piece of what it thinks before."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """A call of a tool begins; `index` counts the calls of an answer."""

    index: int
    identity: str
    name: str


@dataclass(frozen=True)
class Arguments:
    """A piece of a call's arguments, which are JSON."""

    index: int
    text: str


Event = Content | Reasoning | CallBegun | Arguments
