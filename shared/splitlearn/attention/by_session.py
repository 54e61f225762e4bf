"""Rows of many sessions through models that attend by code of their own: it runs session by session, the rest once.

What stands before the layers (embeddings, positions, masks, biases) runs for each session by itself, with a cache that
knows this session alone, and so comes out as it does without others. The layers then run once for the rows of all,
concatenated to [1, T, D]. Only the modules inside them that take the cache run again session by session, each with what
its own session was given; their children that take rows and nothing else, mostly projections, run once for all.

Shapes: T rows of all sessions, t rows of one, D hidden size, K heads of keys, d head dimension.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate, islice, pairwise
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from splitlearn.attention.backend import StepAttention
from splitlearn.hf.modeling import hidden_in, with_hidden
from splitlearn.model.cache import PartCache
from splitlearn.model.part import Part


class SessionCache(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """What a model's own code takes for the cache of one session, in one step.

    Args:
        step: of this session alone; None where it is only asked how many rows there are.
        position: of its first new row.
    """

    def __init__(self, step: StepAttention | None, position: int, length: int) -> None:
        super().__init__()
        self._step, self._position, self._length = step, position, length
        self._stored: set[int] = set()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores [1, K, t, d], and returns all that the session holds."""
        if self._step is None:
            raise RuntimeError("a cache without a step was asked to store rows")
        self._step.store(layer_idx, key_states[0], value_states[0])
        self._stored.add(layer_idx)
        keys, values = self._step.gather(0, layer_idx)
        return keys[None], values[None]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._position + (self._length if layer_idx in self._stored else 0)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.get_seq_length(layer_idx) + query_length, 0


class _OfSessions:
    """An argument that each session has a value of its own for; nothing but `_Step.own` can do anything with it."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = values

    def __bool__(self) -> bool:
        raise TypeError("a layer asks what a value is that differs from session to session")

    def __eq__(self, other: object) -> bool:
        return bool(self)

    __hash__ = object.__hash__


class _Step:
    """One step: first each session goes to the layers, which note what they are given, then all go through them.

    Attributes:
        entering: whether sessions are still on their way to the layers.
        spans: where each session's rows are in those of all.
        calls: arguments of each layer, for each session.
    """

    def __init__(self, lengths: Sequence[int], n_layers: int) -> None:
        self.lengths = list(lengths)
        self.spans = [slice(*ends) for ends in pairwise(accumulate(lengths, initial=0))]
        self.entering = True
        self.calls: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = [[] for _ in range(n_layers)]
        self.inside: _Inside | None = None
        # most layers are given the same objects, which `calls` keeps alive
        self._merged: dict[tuple[int, ...], Any] = {}
        self._same: set[int] = set()

    @property
    def n_rows(self) -> int:
        return sum(self.lengths)

    def rows(self) -> torch.Tensor:
        return torch.cat([hidden_in(*call) for call in self.calls[0]], 1)

    def merged(self, values: Sequence[Any]) -> Any:
        """What sessions gave a layer in one place: the value itself where it is the same for all."""
        key = tuple(map(id, values))
        if key not in self._merged:
            is_same = all(_is_same(each, values[0]) for each in values)
            self._merged[key] = values[0] if is_same else _OfSessions(values)
            self._same.add(id(self._merged[key]))
        return self._merged[key]

    def own(self, value: Any, index: int) -> Any:
        """A session's own of an argument of a module inside the layers."""
        if isinstance(value, _OfSessions):
            return value.values[index]
        is_noted = id(value) in self._same
        if isinstance(value, torch.Tensor) and not is_noted and value.shape[:2] == (1, self.n_rows):
            return value[:, self.spans[index]]
        return value

    def joined(self, outputs: Sequence[Any]) -> Any:
        """What a module gave for each session, for all: rows are concatenated, and weights of attention left out."""
        first = outputs[0]
        if isinstance(first, tuple):
            return tuple(self.joined(each) for each in zip(*outputs, strict=True))
        if all(each is first for each in outputs):
            return first
        shapes = [each.shape[:2] if isinstance(each, torch.Tensor) else None for each in outputs]
        return torch.cat(list(outputs), 1) if shapes == [(1, length) for length in self.lengths] else None


class _Inside:
    """A module that runs session by session, while it runs.

    Attributes:
        given: the rows of all sessions that it was given.
        last: a child that is to run once for all sessions, after them.
        own: the rows of the session that runs.
        span: where these are in `given`.
        shared: what children gave for all of `given`.
        computed: what children were given, for each call, to make rows like those of the module itself.
    """

    def __init__(self, given: Any, last: nn.Module | None) -> None:
        self.given, self.last = given, last
        self.own: Any = None
        self.span = slice(0)
        self.shared: dict[nn.Module, Any] = {}
        self.computed: dict[nn.Module, list[torch.Tensor]] = {}


class _Current(threading.local):
    """The step that runs on this thread."""

    step: _Step | None = None


_CURRENT = _Current()


class _Forward:
    """In place of a module's forward: its own, but in a step of several sessions."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.stock: Callable[..., Any] = module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        step = _CURRENT.step
        return self.stock(*args, **kwargs) if step is None else self.run(step, args, kwargs)

    def run(self, step: _Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError


class _Before(_Forward):
    """A module before the layers: nothing, once the sessions have passed it."""

    def __init__(self, module: nn.Module, stand_in: nn.Module) -> None:
        super().__init__(module)
        self._stand_in = stand_in.forward

    def run(self, step: _Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.stock(*args, **kwargs) if step.entering else self._stand_in(*args, **kwargs)


class _Layer(_Forward):
    """A layer: notes what each session gives it, and then runs for all: with that, or with their rows alone."""

    def __init__(self, module: nn.Module, index: int, rows_alone: bool) -> None:
        super().__init__(module)
        self._index, self._rows_alone = index, rows_alone
        self._n_outputs: int | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = super().__call__(*args, **kwargs)
        if _CURRENT.step is None:
            self._n_outputs = len(output) if isinstance(output, tuple) else None
        return output

    def run(self, step: _Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        calls = step.calls[self._index]
        if step.entering:
            calls.append((args, kwargs))
            rows = hidden_in(args, kwargs)
            return rows if self._n_outputs is None else (rows, *[None] * (self._n_outputs - 1))
        rows = step.rows() if self._index == 0 else hidden_in(args, kwargs)
        if not self._rows_alone:
            # a part that ends the model gives its layers what its head was given besides
            noted = calls[0][1].keys()
            args = tuple(step.merged([call[0][i] for call in calls]) for i in range(len(args)))
            kwargs |= {name: step.merged([call[1][name] for call in calls]) for name in noted}
        args, kwargs = with_hidden(rows, args, kwargs)
        return self.stock(*args, **kwargs)


class _WithCache(_Forward):
    """A module that takes the cache: runs session by session, mostly without its last projection."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self._last: list[nn.Module] | None = None

    def run(self, step: _Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._last is None:
            # the first one, so that what may follow it, as dropout, follows for all sessions too
            output, inside = self._run(step, None, args, kwargs)
            once = [module for module, rows in inside.computed.items() if len(rows) == len(step.spans)]
            fit = (each for each in once if _is_near(self._run(step, each, args, kwargs)[0], output))
            self._last = list(islice(fit, 1))
            return output
        return self._run(step, self._last[0] if self._last else None, args, kwargs)[0]

    def _run(
        self, step: _Step, last: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, _Inside]:
        """What the module gives.

        Args:
            last: a child that gives zeros while the sessions run; what it would have given is added afterwards. Right
                where the module does nothing to that but add to it.
        """
        step.inside = inside = _Inside(hidden_in(args, kwargs), last)
        outputs = []
        try:
            for index, span in enumerate(step.spans):
                own = tuple(step.own(value, index) for value in args)
                named = {name: step.own(value, index) for name, value in kwargs.items()}
                inside.own, inside.span = hidden_in(own, named), span
                outputs.append(self.stock(*own, **named))
        finally:
            step.inside = None
        output = step.joined(outputs)
        if last is None:
            return output, inside
        added = last(torch.cat(inside.computed[last], 1))
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added, inside


class _Child(_Forward):
    """A module inside one that takes the cache: runs once for all sessions where it takes nothing but their rows.

    It has no cache, so it cannot look at other rows than the one that it computes.
    """

    def run(self, step: _Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inside = step.inside
        if inside is None or kwargs or len(args) != 1 or not isinstance(args[0], torch.Tensor):
            return self.stock(*args, **kwargs)
        if args[0] is not inside.own:
            output = torch.zeros_like(inside.own) if self.module is inside.last else self.stock(*args)
            if isinstance(output, torch.Tensor) and output.shape == inside.own.shape:
                inside.computed.setdefault(self.module, []).append(args[0])
            return output
        if self.module not in inside.shared:
            inside.shared[self.module] = self.stock(inside.given)
        return inside.shared[self.module][:, inside.span]


def _is_near(found: Any, expected: Any) -> bool:
    """Whether the rows of two outputs are the same but for rounding."""
    one, other = (each[0] if isinstance(each, tuple) else each for each in (found, expected))
    tolerance = max(1e-4, 4 * torch.finfo(other.dtype).eps)
    return one.shape == other.shape and bool((one - other).abs().max() <= tolerance * other.abs().max())


def _is_same(one: Any, other: Any) -> bool:
    if one is other or not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return one is other
    return one.dtype is other.dtype and torch.equal(one, other)


class BySession:
    """Lets a filled part run so. Puts itself in place of the forwards of modules; other calls of them stay as they are.

    Args:
        run: calls the part with a cache, which it is given.
        is_attention_shared: attention takes the rows of all sessions too, and only what is before the layers does not.
    """

    def __init__(self, part: Part, run: Callable[[PartCache], object], is_attention_shared: bool = False) -> None:
        self._part = part
        layers = list(part.model.get_submodule(part.layout.layers).children())
        attention = [] if is_attention_shared else modules_that_take_the_cache(layers, part.new_cache(), run)
        for module in attention:
            for child in module.children():
                _replace(child, _Child(child))
            _replace(module, _WithCache(module))
        for index, layer in enumerate(layers):
            _replace(layer, _Layer(layer, index, is_attention_shared))
        for module, stand_in in part.before_the_layers():
            _replace(module, _Before(module, stand_in))
        self._n_layers = len(layers)
        run(part.new_cache())

    @contextmanager
    def step(self, rows: Sequence[torch.Tensor], caches: Sequence[SessionCache]) -> Iterator[torch.Tensor]:
        """Inside, the part runs with what this gives, [1, T, D], in place of rows.

        Args:
            rows: of each session: token ids [t], or hidden states [t, D].
        """
        step = _Step([each.shape[0] for each in rows], self._n_layers)
        with ExitStack() as stack:
            stack.callback(setattr, _CURRENT, "step", None)
            _CURRENT.step = step
            for each, cache in zip(rows, caches, strict=True):
                self._part.run_decoder(each[None], past_key_values=cache, use_cache=True)
            step.entering = False
            yield step.rows()


def modules_that_take_the_cache(
    layers: Sequence[nn.Module], cache: PartCache, run: Callable[[PartCache], object]
) -> list[nn.Module]:
    """The innermost modules of the layers that are given the cache, which `run` calls their part with."""
    found: list[nn.Module] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(value is cache for value in (*args, *kwargs.values())):
            found.append(module)

    handles = [
        module.register_forward_pre_hook(note, with_kwargs=True) for layer in layers for module in layer.modules()
    ]
    try:
        run(cache)
    finally:
        for handle in handles:
            handle.remove()
    return [each for each in found if not any(inner in found for inner in each.modules() if inner is not each)]


def _replace(module: nn.Module, forward: _Forward) -> None:
    """Unless it was done for another runner of the part."""
    if not isinstance(vars(module).get("forward"), _Forward):
        module.forward = forward
