"""Loads a small model with the same tokenizer, whole, that guesses what the large one will say."""

import json
from pathlib import Path
from typing import Any

from llm_sepweight import Manifest, PartSpec
from splitlearn.backends.cpu.packing import pack
from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part, resolve_device
from splitlearn.engine import DeviceThread, Engine
from splitlearn_client.errors import BadModelFiles
from splitlearn_client.model_drafter import draft_limits
from splitlearn_client.settings import ClientSettings


def load_draft_model(folder: Path, settings: ClientSettings, vocabulary: int, thread: DeviceThread) -> Engine:
    """The engine of the small model. Blocks; call it on the device thread.

    Args:
        folder: its sepweight directory.
        vocabulary: how many tokens the large model has.

    Raises:
        SepweightError, SplitError: the files are missing or damaged.
        BadModelFiles: it has another tokenizer.
    """
    manifest = Manifest.read(folder)
    spec = PartSpec(begin=True, layers=(range(manifest.n_layers),), end=True)
    part = load_part(folder, spec, device=resolve_device(settings.device))
    known = part.config.get_text_config(decoder=True).vocab_size
    if known > vocabulary or _spelled(folder) != _spelled(settings.weights):
        raise BadModelFiles(
            f"{folder} has another tokenizer than {settings.weights}; guesses come from a model with the same one"
        )
    pack(part, settings.quantization)
    return build_engine(part, thread, draft_limits(settings, part.device))


def _spelled(folder: Path) -> Any:
    """What tells the tokens of its tokenizer.json from another's; None without that file."""
    file = folder / "tokenizer.json"
    return json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"] if file.exists() else None
