"""How many parameters each registered model has at equal sizes: `python -m cleangpt.model.parameter_counts`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cleangpt.config import GPTConfig
from cleangpt.errors import BadConfigError
from cleangpt.model.registry import MODEL_REGISTRY, get_model


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of one model: in the embeddings (the tied head included), in all layers, and in total."""

    embeddings: int
    layers: int
    total: int


def parameter_counts(config: GPTConfig) -> dict[str, ParameterCount]:
    """The counts of every registered model at these sizes; no memory is allocated for weights."""
    return {name: _count(name, config) for name in MODEL_REGISTRY}


def _count(name: str, config: GPTConfig) -> ParameterCount:
    with torch.device("meta"):
        model = get_model(name, config)
    by_name = {key: tensor.numel() for key, tensor in model.named_parameters()}
    return ParameterCount(
        embeddings=sum(n for key, n in by_name.items() if ".embed_" in key),
        layers=sum(n for key, n in by_name.items() if ".layers." in key),
        total=sum(by_name.values()),
    )


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
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    try:
        config = GPTConfig(**vars(parser.parse_args(arguments)))
    except BadConfigError as error:
        parser.error(str(error))
    print(table(parameter_counts(config)))


if __name__ == "__main__":
    main()
