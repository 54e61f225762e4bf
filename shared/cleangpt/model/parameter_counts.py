"""How many parameters each registered model has at equal sizes, and with each of its own options the other way.

`python -m cleangpt.model.parameter_counts` prints a table.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from cleangpt.config import OWN_OPTIONS, GPTConfig
from cleangpt.errors import BadConfigError
from cleangpt.model.registry import MODEL_REGISTRY, get_model, options_of


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of one model: in the embeddings (the tied head included), in all layers, and in total."""

    embeddings: int
    layers: int
    total: int


def parameter_counts(config: GPTConfig) -> dict[str, ParameterCount]:
    """The counts of every registered model at these sizes, and of those that one of its own options makes of it.

    The keys are names such as `SASP` and `SASP with skip_connections`. Raises ModelOptionError if the config has an
    option that not all models have.
    """
    return {label: parameter_count(each) for label, each in _variants(config)}


def parameter_count(config: GPTConfig) -> ParameterCount:
    """The count of `config.model_type` with these sizes and options; no memory is allocated for weights.

    Raises ModelUnknownError, ModelOptionError: see `get_model`.
    """
    with torch.device("meta"):
        model = get_model(config.model_type, config)
    by_name = {key: tensor.numel() for key, tensor in model.named_parameters()}
    return ParameterCount(
        embeddings=sum(n for key, n in by_name.items() if ".embed_" in key),
        layers=sum(n for key, n in by_name.items() if ".layers." in key),
        total=sum(by_name.values()),
    )


def _variants(config: GPTConfig) -> Iterator[tuple[str, GPTConfig]]:
    for name in MODEL_REGISTRY:
        plain = replace(config, model_type=name)
        yield name, plain
        for option in (each for each in options_of(name) if each in OWN_OPTIONS):
            is_on = getattr(plain, option)
            changed: dict[str, Any] = {option: not is_on}
            yield f"{name} {'without' if is_on else 'with'} {option}", replace(plain, **changed)


def table(counts: dict[str, ParameterCount]) -> str:
    """The counts as a Markdown table, with each total as a share of the first model's."""
    first = next(iter(counts.values())).total
    rows = [
        f"| {name} | {count.embeddings:,} | {count.layers:,} | {count.total:,} | {count.total / first:.1%} |"
        for name, count in counts.items()
    ]
    titles = "| model | embeddings | layers | total | of the first |\n|---|---:|---:|---:|---:|"
    return "\n".join([titles, *rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table for the sizes in `arguments`."""
    defaults = GPTConfig()
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name))
    try:
        config = GPTConfig(**vars(parser.parse_args(arguments)))
    except BadConfigError as error:
        parser.error(str(error))
    print(table(parameter_counts(config)))


if __name__ == "__main__":
    main()
