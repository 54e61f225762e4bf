"""Which layers each worker of a chain serves, and which the client keeps. Integers only: no tensors, no files.

Workers take contiguous layers in their given order. A stage's time for one step is that of reading its weights once,
and of receiving and sending the rows of all sessions. The chain is as fast as its slowest stage.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import lcm

from splitlearn.errors import DoesNotFit
from splitlearn.model.plan import SplitPlan


@dataclass(frozen=True)
class ModelCosts:
    """What a model takes in memory and on the wire, in bytes.

    Attributes:
        layers: the weights of each layer.
        cache: keys, values and states of all sessions, for each layer.
        begin: embeddings and what else runs before the layers.
        end: norm and head, and what else runs after the layers.
        reserved: what every process takes besides: libraries, activations of one step.
        hop: the rows of all sessions, one of each, on their way from one worker to the next.
    """

    layers: tuple[int, ...]
    cache: tuple[int, ...]
    begin: int
    end: int
    reserved: int
    hop: int


@dataclass(frozen=True)
class Worker:
    """A machine of the chain.

    Attributes:
        memory: bytes that the worker may use.
        read_speed: bytes of weights that it reads in a second.
        link_speed: bytes that it receives in a second, and as many that it sends; None where links cost nothing.
    """

    memory: int
    read_speed: int
    link_speed: int | None = None


@dataclass(frozen=True)
class Stage:
    """The layers of one worker, which is known by its index. `weights` and `cache` are bytes, `total` is both and
    what a process takes besides."""

    worker: int
    layers: range
    weights: int
    cache: int
    total: int
    step_seconds: float


@dataclass(frozen=True)
class Placement:
    """A cut of the whole model. Workers that are in no stage would only slow the chain down.

    Attributes:
        client_weights: bytes of the client's weights.
        client_cache: bytes for the client's keys and values: as much for each of its ends as the larger one takes.
        client_total: both, and what a process takes besides.
    """

    plan: SplitPlan
    stages: tuple[Stage, ...]
    client_weights: int
    client_cache: int
    client_total: int


def propose(costs: ModelCosts, workers: Sequence[Worker], client_memory: int) -> Placement:
    """The placement whose slowest stage is fastest; of these, the one that takes a single row the least time.

    The client keeps a twelfth of the layers at each end, fewer where it has too little memory, and more only where the
    workers have.

    Raises:
        BadPlan: the model has too few layers.
        DoesNotFit: the client, or the workers together, have too little memory.
    """
    n_layers = len(costs.layers)
    usual = SplitPlan.parse(None, n_layers).first
    most = (n_layers - 1) // 2
    held = next((ends for ends in range(most, 0, -1) if _client_total(costs, ends) <= client_memory), 0)
    if not held:
        raise _client_too_small(costs, client_memory)
    for ends in range(min(usual, held), held + 1):
        plan = SplitPlan(ends, n_layers - ends, n_layers)
        if _lacking(costs, workers, plan) is None:
            return _placement(costs, plan, tuple(_stages(costs, workers, plan)))
    plan = SplitPlan(held, n_layers - held, n_layers)
    raise _workers_too_small(costs, workers, plan)


def _placement(costs: ModelCosts, plan: SplitPlan, stages: tuple[Stage, ...]) -> Placement:
    ends = plan.first
    return Placement(
        plan=plan,
        stages=stages,
        client_weights=_client_weights(costs, ends),
        client_cache=_client_cache(costs, ends),
        client_total=_client_total(costs, ends),
    )


def _client_weights(costs: ModelCosts, ends: int) -> int:
    return costs.begin + sum(costs.layers[:ends]) + sum(costs.layers[-ends:]) + costs.end


def _client_cache(costs: ModelCosts, ends: int) -> int:
    return 2 * max(sum(costs.cache[:ends]), sum(costs.cache[-ends:]))


def _client_total(costs: ModelCosts, ends: int) -> int:
    return costs.reserved + _client_weights(costs, ends) + _client_cache(costs, ends)


class _Chain:
    """The workers and the layers that they share; layers are counted from the first of these."""

    def __init__(self, costs: ModelCosts, workers: Sequence[Worker], plan: SplitPlan) -> None:
        self.n_layers = plan.last - plan.first
        self.workers = workers
        self._costs = costs
        self._weights = [0, *accumulate(costs.layers[plan.first : plan.last])]
        self._cache = [0, *accumulate(costs.cache[plan.first : plan.last])]
        # times are whole numbers of 1/ticks seconds: sums of them are exact, and so are comparisons
        self.ticks = lcm(*(each.read_speed for each in workers), *(each.link_speed or 1 for each in workers))

    def weights(self, start: int, stop: int) -> int:
        return self._weights[stop] - self._weights[start]

    def cache(self, start: int, stop: int) -> int:
        return self._cache[stop] - self._cache[start]

    def total(self, start: int, stop: int) -> int:
        """The memory that a worker needs; none without layers."""
        return self._costs.reserved + self.weights(start, stop) + self.cache(start, stop) if stop > start else 0

    def time(self, worker: int, start: int, stop: int) -> int:
        """The ticks of one step; none without layers."""
        if stop == start:
            return 0
        speeds = self.workers[worker]
        reading = self.weights(start, stop) * (self.ticks // speeds.read_speed)
        # in and out
        moving = 0 if speeds.link_speed is None else 2 * self._costs.hop * (self.ticks // speeds.link_speed)
        return reading + moving

    def choices(self, worker: int, stop: int) -> Iterator[tuple[int, int]]:
        """Every first layer with which this worker can end before `stop`, and the time that its layers take."""
        for start in range(stop, -1, -1):
            if self.total(start, stop) > self.workers[worker].memory:
                return
            yield start, self.time(worker, start, stop)


def _stages(costs: ModelCosts, workers: Sequence[Worker], plan: SplitPlan) -> Iterator[Stage]:
    """The best stages of workers that together hold the layers."""
    chain = _Chain(costs, workers, plan)
    stop = chain.n_layers
    chosen: list[tuple[int, int, int]] = []
    for worker, starts in reversed(list(enumerate(_best_starts(chain, _slowest(chain))))):
        start = starts[stop]
        if start < stop:
            chosen.append((worker, start, stop))
        stop = start
    for worker, start, stop in reversed(chosen):
        yield Stage(
            worker=worker,
            layers=range(plan.first + start, plan.first + stop),
            weights=chain.weights(start, stop),
            cache=chain.cache(start, stop),
            total=chain.total(start, stop),
            step_seconds=chain.time(worker, start, stop) / chain.ticks,
        )


def _slowest(chain: _Chain) -> int:
    """The least time that the slowest stage can take."""
    # by the number of layers that the workers so far hold; None where they cannot
    reached: list[int | None] = [0, *([None] * chain.n_layers)]
    for worker in range(len(chain.workers)):
        reached = [
            min(
                (
                    max(before, time)
                    for start, time in chain.choices(worker, stop)
                    if (before := reached[start]) is not None
                ),
                default=None,
            )
            for stop in range(chain.n_layers + 1)
        ]
    # the caller knows that they fit
    return reached[-1] or 0


def _best_starts(chain: _Chain, slowest: int) -> list[list[int]]:
    """For each worker, by the layer where it ends: the first layer of the least total time, and of the most even."""
    reached: list[tuple[int, int] | None] = [(0, 0), *([None] * chain.n_layers)]
    starts = []
    for worker in range(len(chain.workers)):
        found = [
            min(
                (
                    (before[0] + time, before[1] + time * time, start)
                    for start, time in chain.choices(worker, stop)
                    if time <= slowest and (before := reached[start]) is not None
                ),
                default=None,
            )
            for stop in range(chain.n_layers + 1)
        ]
        reached = [None if each is None else each[:2] for each in found]
        starts.append([0 if each is None else each[2] for each in found])
    return starts


def _lacking(costs: ModelCosts, workers: Sequence[Worker], plan: SplitPlan) -> tuple[int, int, range] | None:
    """The worker that lacks the least memory, how much, and for which layers; None if the layers fit."""
    chain = _Chain(costs, workers, plan)
    # layers before, which the workers in front can hold; and the first of those that the workers behind can hold
    front = _reach(chain, range(len(workers)))
    behind = [chain.n_layers - each for each in _reach(chain, range(len(workers) - 1, -1, -1))][::-1]
    if front[-1] == chain.n_layers:
        return None
    return min(
        (
            (chain.total(start, stop) - worker.memory, index, range(plan.first + start, plan.first + stop))
            for index, worker in enumerate(workers)
            if (start := front[index]) < (stop := behind[index + 1])
        ),
        key=lambda each: each[:2],
    )


def _reach(chain: _Chain, order: range) -> list[int]:
    """How many layers the first 0, 1, ... workers in this order hold together, counted from their end of the chain."""
    forward = order.step > 0
    held = [0]
    for worker in order:
        count = held[-1]
        while count < chain.n_layers:
            start, stop = held[-1], count + 1
            if not forward:
                start, stop = chain.n_layers - stop, chain.n_layers - start
            if chain.total(start, stop) > chain.workers[worker].memory:
                break
            count += 1
        held.append(count)
    return held


def _client_too_small(costs: ModelCosts, memory: int) -> DoesNotFit:
    wanted = _client_total(costs, 1)
    missing = wanted - memory
    return DoesNotFit(
        f"the client lacks {_size(missing)}: embeddings, one layer at each end, head, and keys and values take "
        f"{_size(wanted)}; give it more memory, or plan for fewer sessions or a shorter context",
        None,
        missing,
    )


def _workers_too_small(costs: ModelCosts, workers: Sequence[Worker], plan: SplitPlan) -> DoesNotFit:
    found = _lacking(costs, workers, plan)
    missing, index, layers = found if found is not None else (0, 0, range(0))
    wanted = workers[index].memory + missing
    return DoesNotFit(
        f"layers {plan.layers} do not fit, although the client keeps as many others as it can: worker {index + 1} of "
        f"{len(workers)} lacks {_size(missing)} for layers {layers.start}-{layers.stop}, which no other can hold; "
        f"give it {_size(wanted)}, add a worker, or plan for fewer sessions or a shorter context",
        index,
        missing,
    )


def _size(count: int) -> str:
    """Rounded up: whoever gives as much gives enough."""
    mebibytes = -(-count // 2**20)
    return f"{mebibytes} MiB" if mebibytes < 10_240 else f"{-(-count * 10 // 2**30) / 10:g} GiB"
