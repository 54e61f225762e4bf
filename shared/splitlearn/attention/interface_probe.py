"""Finds out how a part attends by letting it attend once, with a function that only notes what it is given.

Shapes: T rows, H heads, d head dimension.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from splitlearn.attention.by_session import modules_that_take_the_cache
from splitlearn.hf.attention_interface import AttentionSwitch
from splitlearn.hf.modeling import hidden_in
from splitlearn.model.cache import PartCache
from splitlearn.model.part import Part

NAME = "splitlearn_probe"


@dataclass(frozen=True)
class Probe:
    """What was found of a part.

    Attributes:
        uses_interface: each attention module hands the keys and values that it gets from its cache, as they are, to
            the function that transformers' attention interface names, once.
        is_told_positions: its layers are given tensors, beside rows and a mask, that may differ with the position.
    """

    uses_interface: bool
    is_told_positions: bool


def probe(part: Part, run: Callable[[PartCache], object]) -> Probe:
    """Probes a filled part.

    Args:
        run: calls the part with two rows for the cache, which follow those that it holds.
    """
    layers = list(part.model.get_submodule(part.layout.layers).children())
    cache = part.new_cache()
    modules = modules_that_take_the_cache(layers, cache, run)
    held: list[tuple[torch.Tensor, torch.Tensor]] = []
    told: list[torch.Tensor] = []
    update = cache.update

    def note_held(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        held.append(update(*args, **kwargs))
        return held[-1]

    def note_told(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows = hidden_in(args, kwargs)
        told.extend(each for each in _tensors((*args, *kwargs.values())) if each is not rows)

    cache.update = note_held
    attended: list[tuple[torch.Tensor, torch.Tensor]] = []
    _CURRENT.attended = attended
    with ExitStack() as stack:
        stack.callback(layers[0].register_forward_pre_hook(note_told, with_kwargs=True).remove)
        for module in modules:
            stack.enter_context(_attending(module))
        # rows that others precede: a mask of a single row, or of the first ones, may be left out
        run(cache)
    same = [own[0] is given[0] and own[1] is given[1] for own, given in zip(held, attended, strict=False)]
    return Probe(
        uses_interface=len(held) == len(attended) == len(modules) and all(same),
        is_told_positions=any(each.ndim != 4 for each in told),
    )


class _Current(threading.local):
    """The keys and values that the probe on this thread was given."""

    attended: list[tuple[torch.Tensor, torch.Tensor]]


_CURRENT = _Current()


def _note(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [1, H, T, d] to output [1, T, H, d], which is 0."""
    _CURRENT.attended.append((key, value))
    return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None


@contextmanager
def _attending(module: nn.Module) -> Iterator[None]:
    """Inside, the module attends with the probe, if through transformers' interface; nothing around it does."""
    stock, switch = module.forward, AttentionSwitch(module.modules())

    def forward(*args: Any, **kwargs: Any) -> Any:
        with switch.to(NAME):
            return stock(*args, **kwargs)

    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from _tensors(value)


AttentionInterface.register(NAME, _note)
