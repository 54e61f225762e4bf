"""Loads a small model with the same tokenizer, whole, that guesses what the large one will say."""

from pathlib import Path
from typing import Any, Final

from llm_sepweight import Manifest, PartSpec
from splitlearn.backends.cpu.packing import pack, takes_int4
from splitlearn.build import build_engine
from splitlearn.checkpoints.folder import read_json_object, tokenizer_files
from splitlearn.checkpoints.load import load_part, resolve_device
from splitlearn.engine import DeviceThread, Engine
from splitlearn_client.errors import BadModelFiles
from splitlearn_client.model_drafter import draft_limits
from splitlearn_client.settings import ClientSettings

_TOKENIZER: Final = "tokenizer.json"


def load_draft_model(folder: Path, settings: ClientSettings, vocabulary: int, thread: DeviceThread) -> Engine:
    """The engine of the small model. Blocks; call it on the device thread.

    Args:
        folder: its sepweight directory.
        vocabulary: how many tokens the large model has.

    Raises:
        SepweightError, SplitError: the files are missing or damaged.
        BadModelFiles: it has another tokenizer, or none that can be read.
    """
    manifest = Manifest.read(folder)
    spec = PartSpec(begin=True, layers=(range(manifest.n_layers),), end=True)
    part = load_part(folder, spec, device=resolve_device(settings.device), keep_int4=takes_int4(settings.quantization))
    known = part.config.get_text_config(decoder=True).vocab_size
    if known > vocabulary or _spelled(folder) != _spelled(settings.weights):
        raise BadModelFiles(
            f"{folder} has another tokenizer than {settings.weights}; guesses come from a model with the same one"
        )
    pack(part, settings.quantization)
    return build_engine(part, thread, draft_limits(settings, part.device))


def _spelled(folder: Path) -> Any:
    """What tells the tokens of its tokenizer.json from another's; None without that file."""
    if _TOKENIZER not in tokenizer_files(folder):
        return None
    try:
        return read_json_object(folder / _TOKENIZER)["model"]["vocab"]
    except (LookupError, TypeError) as error:
        raise BadModelFiles(f"{folder / _TOKENIZER} has no vocabulary; copy it there again") from error
