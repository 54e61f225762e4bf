"""A small finished directory with tied weights, the decider that fits it, and this process's memory.

Shape suffixes: V vocabulary, D hidden size.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from llm_sepweight import Manifest, SepweightWriter, TensorSource

N_LAYERS = 3


@dataclass(frozen=True)
class Model:
    """A finished directory and what was written to it."""

    path: Path
    embed: torch.Tensor
    layers: tuple[torch.Tensor, ...]
    norm: torch.Tensor
    manifest: Manifest


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Three layers in bf16, the head tied to the embeddings."""
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(torch.bfloat16)

    path = tmp_path / "model"
    embed_VD, layers, norm_D = random(11, 4), tuple(random(4, 4) for _ in range(N_LAYERS)), random(4)
    writer = SepweightWriter(path)
    writer.write_section("begin", [TensorSource.of("embed_tokens.weight", embed_VD)])
    for index, weight_DD in enumerate(layers):
        writer.write_section(f"mid.{index:05d}", [TensorSource.of("mlp.weight", weight_DD)])
    writer.write_section("end", [TensorSource.of("norm.weight", norm_D)])
    manifest = writer.commit(
        model_name="tiny",
        config={"model_type": "tiny"},
        dtype="bfloat16",
        n_layers=N_LAYERS,
        tied={"end/lm_head.weight": "begin/embed_tokens.weight"},
    )
    return Model(path, embed_VD, layers, norm_D, manifest)


@pytest.fixture
def decider() -> Callable[[str], list[str]]:
    """Places `embed.weight`, `h.3.mlp.weight` and `head.weight` as their names say."""

    def decide(key: str) -> list[str]:
        if key.startswith("h."):
            _, layer, name = key.split(".", 2)
            return ["mid", layer, name]
        return ["start" if key.startswith("embed") else "end", key]

    return decide


@pytest.fixture
def anonymous_memory() -> Callable[[], int]:
    """Bytes of this process that no file backs, now."""

    def read() -> int:
        status = Path("/proc/self/status")
        if not status.exists():
            pytest.skip("needs Linux's /proc/self/status")
        match = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
        assert match
        return int(match[1]) * 1024

    return read
