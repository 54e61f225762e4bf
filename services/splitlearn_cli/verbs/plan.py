"""`splitlearn plan`: a cut of a model for workers of unequal size."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ByteSize, Field, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn.choices import KVCacheDtype, Quantization
from splitlearn_cli.errors import BadUsage
from splitlearn_cli.flags import Flag, read_by
from splitlearn_cli.terminal import aligned, human_bytes, note

if TYPE_CHECKING:
    from splitlearn.checkpoints.costs import StoredModel
    from splitlearn.model.placement import ModelCosts, Placement, Stage, Worker

_SIZE = TypeAdapter(ByteSize)
_LONGEST_DEFAULT_CONTEXT = 4096


def parse_sizes(text: str) -> tuple[int, ...]:
    """Sizes with commas between them, such as 24GiB,8GiB or 10Gbit. Raises ValueError."""
    try:
        sizes = tuple(int(_SIZE.validate_python(each.strip())) for each in text.split(","))
    except ValidationError as error:
        raise ValueError(
            "expected sizes such as 24GiB,24GiB,8GiB, or 10Gbit,1Gbit for what passes in a second"
        ) from error
    if min(sizes) < 1:
        raise ValueError("a size is 1 byte at least")
    return sizes


class Settings(BaseSettings):
    """The model, the machines, and what they are to serve."""

    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_PLAN_", frozen=True, extra="forbid")

    weights: Path = Field(
        description="Sepweight directory; of a Hugging Face folder or a GGUF file the headers suffice."
    )
    memory: Annotated[str, Flag("--memory"), read_by(parse_sizes)] = Field(
        description="Memory of each worker, in the order of the chain, for example 24GiB,24GiB,8GiB.",
    )
    bandwidth: Annotated[str | None, read_by(parse_sizes)] = Field(
        None,
        description="What each worker's network carries in a second, for example 10Gbit,1Gbit,1Gbit, or one for all. "
        "Default: links cost nothing.",
    )
    memory_bandwidth: Annotated[str, read_by(parse_sizes)] = Field(
        "50GB",
        description="Bytes of weights that each worker reads in a second, for example 2TB,2TB,50GB, or one for all.",
    )
    client_memory: ByteSize | None = Field(
        None, description="Memory of the client service. Default: what is free on this machine."
    )
    context: int | None = Field(
        None, ge=1, description="Rows of the longest session. Default: the model's context, at most 4096."
    )
    sessions: int = Field(8, ge=1, description="Sessions of that length at the same time.")
    quantization: Quantization = Field("none", description="As for the services; CPU only.")
    kv_cache_dtype: KVCacheDtype = Field("auto", description="As for the services; CPU only.")
    max_num_batched_tokens: int = Field(512, ge=16, description="As for the services: rows in one step.")
    as_json: Annotated[bool, Flag("--json")] = Field(False, description="Print JSON rather than a table.")


def run(settings: Settings) -> None:
    """Workers take their layers in the order given; the client keeps the first and the last ones.

    The slowest stage is as fast as it can be: a step reads the weights of a stage once, and moves a row of each session
    in and out.
    """
    from splitlearn.checkpoints.costs import read_stored
    from splitlearn.errors import DoesNotFit
    from splitlearn.model.placement import propose

    workers = _workers(settings)
    model = read_stored(settings.weights)
    client_memory = settings.client_memory or _free_here()
    try:
        placement = propose(_costs(model, settings), workers, client_memory)
    except DoesNotFit as error:
        raise DoesNotFit(
            f"{error}{_what_would_fit(model, settings, workers, client_memory)}", error.worker, error.missing
        ) from error
    if not model.footprint.is_measured:
        note(f"the keys and values of {model.name} could not be measured; they are taken for as large as they can be")
    commands = list(_commands(settings, model, placement))
    if settings.as_json:
        print(json.dumps(_as_json(settings, model, placement, workers, client_memory, commands), indent=1))
        return
    print(aligned(list(_table(placement, workers, client_memory))))
    print()
    for command in commands:
        print(command)
    note("start the last worker first: each prints what has to be behind its address for the one before it")
    idle = [str(i + 1) for i in range(len(workers)) if i not in {stage.worker for stage in placement.stages}]
    if idle:
        note(f"without layers, because the chain is no slower without: worker {', '.join(idle)}")


def _workers(settings: Settings) -> "list[Worker]":
    from splitlearn.model.placement import Worker

    memory = parse_sizes(settings.memory)
    speeds = _one_each("--memory-bandwidth", settings.memory_bandwidth, len(memory))
    links: Sequence[int | None] = [None] * len(memory)
    if settings.bandwidth is not None:
        links = _one_each("--bandwidth", settings.bandwidth, len(memory))
    return [Worker(*each) for each in zip(memory, speeds, links, strict=True)]


def _one_each(flag: str, text: str, count: int) -> Sequence[int]:
    values = parse_sizes(text)
    if len(values) not in (1, count):
        raise BadUsage(
            f"{flag} has {len(values)} values for the {count} workers of --memory; give one, or one for each"
        )
    return values * count if len(values) == 1 else values


def _free_here() -> int:
    import torch

    from splitlearn.backends.memory import free_bytes

    return free_bytes(torch.device("cpu"))


def _context(settings: Settings, model: "StoredModel") -> int:
    """Raises BadUsage if the model has no such context."""
    longest = model.footprint.context_length
    if settings.context is None:
        return min(longest or _LONGEST_DEFAULT_CONTEXT, _LONGEST_DEFAULT_CONTEXT)
    if longest is not None and settings.context > longest:
        raise BadUsage(f"--context is {settings.context}, but {model.name} has {longest} positions")
    return settings.context


def _costs(model: "StoredModel", settings: Settings, **changes: Any) -> "ModelCosts":
    wanted = {
        "sessions": settings.sessions,
        "context": _context(settings, model),
        "quantization": settings.quantization,
        "kv_cache_dtype": settings.kv_cache_dtype,
        "batched_tokens": settings.max_num_batched_tokens,
    }
    return model.costs(**{**wanted, **changes})


def _what_would_fit(model: "StoredModel", settings: Settings, workers: "Sequence[Worker]", client_memory: int) -> str:
    """The least changes of the wish that fit, as the rest of a sentence; empty if there are none."""
    from splitlearn.errors import DoesNotFit
    from splitlearn.model.placement import propose

    def fits(**changes: Any) -> bool:
        try:
            propose(_costs(model, settings, **changes), workers, client_memory)
        except DoesNotFit:
            return False
        return True

    found = []
    if settings.quantization == "none" and fits(quantization="int8"):
        found.append("--quantization int8")
    elif settings.quantization != "int4" and fits(quantization="int4"):
        found.append("--quantization int4")
    most = _most(settings.sessions, lambda count: fits(sessions=count))
    if most:
        found.append(f"--sessions {most}")
    shortest = _most(_context(settings, model), lambda count: fits(context=count))
    if shortest:
        found.append(f"--context {shortest}")
    return f"; it fits with {' or '.join(found)}" if found else ""


def _most(limit: int, fits: Any) -> int:
    """The largest count up to the limit that fits; 0 if none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _table(placement: "Placement", workers: "Sequence[Worker]", client_memory: int) -> Iterator[tuple[str, ...]]:
    yield "STAGE", "LAYERS", "WEIGHTS", "KV CACHE", "TOTAL", "OF ITS MEMORY", "STEP"
    ends = f"{placement.plan.bottom} and {placement.plan.top}"
    weights, cache = human_bytes(placement.client_weights), human_bytes(placement.client_cache)
    total = placement.client_total
    yield "client", ends, weights, cache, human_bytes(total), _share(total, client_memory), ""
    for stage in placement.stages:
        memory = workers[stage.worker].memory
        yield (
            f"worker {stage.worker + 1}",
            f"{stage.layers.start}-{stage.layers.stop}",
            human_bytes(stage.weights),
            human_bytes(stage.cache),
            human_bytes(stage.total),
            _share(stage.total, memory),
            f"{stage.step_seconds * 1000:.3g} ms",
        )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%"


def _commands(settings: Settings, model: "StoredModel", placement: "Placement") -> Iterator[str]:
    """Workers are called HOST1, HOST2 and so on, as in --memory. What is behind a # stands for what they print."""
    weights = str(settings.weights)
    if not model.is_converted:
        weights = "WEIGHTS"
        yield f"splitlearn convert {settings.weights} -o {weights}"
    rest = "" if settings.quantization == "none" else f" --quantization {settings.quantization}"
    rest += "" if settings.kv_cache_dtype == "auto" else f" --kv-cache-dtype {settings.kv_cache_dtype}"
    following = [f" --next {_address(stage)}" for stage in placement.stages[1:]]
    for stage, following_flag in zip(placement.stages, [*following, ""], strict=True):
        layers = f"{stage.layers.start}-{stage.layers.stop}"
        yield (
            f"splitlearn trunk {weights} --layers {layers}{following_flag} --host 0.0.0.0 "
            f"--kv-cache-memory-bytes {stage.cache}{rest}"
        )
    yield (
        f"splitlearn client {weights} --layers {placement.plan.layers} --trunk {_address(placement.stages[0])} "
        f"--kv-cache-memory-bytes {placement.client_cache}{rest}"
    )


def _address(stage: "Stage") -> str:
    return f"HOST{stage.worker + 1}:50051#TOKEN.FINGERPRINT"


def _as_json(
    settings: Settings,
    model: "StoredModel",
    placement: "Placement",
    workers: "Sequence[Worker]",
    client_memory: int,
    commands: list[str],
) -> dict[str, Any]:
    return {
        "model": model.name,
        "dtype": model.dtype,
        "quantization": settings.quantization,
        "kv_cache_dtype": settings.kv_cache_dtype,
        "sessions": settings.sessions,
        "context": _context(settings, model),
        "cache_is_measured": model.footprint.is_measured,
        "client": {
            "bottom": str(placement.plan.bottom),
            "top": str(placement.plan.top),
            "weights_bytes": placement.client_weights,
            "cache_bytes": placement.client_cache,
            "total_bytes": placement.client_total,
            "memory_bytes": client_memory,
        },
        "stages": [
            {
                "worker": stage.worker + 1,
                "layers": f"{stage.layers.start}-{stage.layers.stop}",
                "weights_bytes": stage.weights,
                "cache_bytes": stage.cache,
                "total_bytes": stage.total,
                "memory_bytes": workers[stage.worker].memory,
                "step_seconds": stage.step_seconds,
            }
            for stage in placement.stages
        ],
        "commands": commands,
    }
