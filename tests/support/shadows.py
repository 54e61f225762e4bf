"""Shadows of tiny models: some are as good as the trunk, others know nothing."""

from pathlib import Path

import torch

from cleangpt.model.shadow import Shadow, ShadowConfig
from cleangpt.model.shadow_folder import export_shadow
from llm_sepweight import Manifest
from splitlearn.checkpoints.load import load_part
from splitlearn.model.plan import SplitPlan, fingerprint

LAYERS = "1-4"
"""The default cut of tiny models."""


def random_shadow(width: int = 64, seed: int = 0, n_layers: int = 2) -> Shadow:
    """Between rows as wide as a tiny model's."""
    torch.manual_seed(seed)
    shape = {"num_hidden_layers": n_layers, "num_attention_heads": 4, "intermediate_size": 96}
    shadow = Shadow(ShadowConfig(64, width=width, **shape))
    with torch.no_grad():
        for each in shadow.parameters():
            each.add_(torch.randn_like(each), alpha=0.1)
    return shadow.eval()


def trunk_as_shadow(weights: Path) -> Shadow:
    """The layers of a tiny qwen3's trunk, whose shape is that of a shadow's."""
    trunk = load_part(weights, LAYERS, dtype="float32")
    layers = trunk.model.get_submodule(trunk.layout.layers)
    config = ShadowConfig(64, width=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96)
    shadow = Shadow(config)
    shadow.stack.layers.load_state_dict(layers.state_dict())
    return shadow.eval()


def exported(shadow: Shadow, folder: Path, weights: Path, layers: str = LAYERS) -> Path:
    """Its folder, as if it had been fitted to this model and cut."""
    manifest = Manifest.read(weights)
    shadow.config.fingerprint = fingerprint(manifest, SplitPlan.parse(layers, manifest.n_layers), manifest.dtype)
    return export_shadow(shadow, folder)
