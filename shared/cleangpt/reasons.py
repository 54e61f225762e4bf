"""One-line reasons why a folder from an untrusted source cannot be read, with the name of the file.

The messages of transformers and torch run over many lines and advise turning off safety checks.
"""

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Final

from safetensors import SafetensorError, safe_open

_LONGEST: Final = 300
_OBJECTS: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)


def broken_json(folder: Path) -> str | None:
    """The first file that is not a JSON object as transformers expects, and why; None if there is no such file."""
    for file in (folder / name for name in _OBJECTS):
        if not file.exists():
            continue
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            return f"{file.name} is not JSON ({error}); copy it again or save it again"
        if not isinstance(found, dict):
            return f"{file.name} holds no JSON object; copy it again or save it again"
    return None


def reason_of(error: Exception, folder: Path) -> str:
    """What is wrong with the folder, given the error that reading it raised.

    Code shipped with a model is never run, and a pickle is never loaded unrestricted: the message suggests another
    edition of the model, not a switch.
    """
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return (
            "it needs Python code from its own folder, and untrusted code is not run; "
            "use a model of a type that transformers has itself"
        )
    if isinstance(error, UnpicklingError | EOFError) or "weights_only" in text:
        return (
            "its weights are a pickle that is damaged or holds more than tensors; it was not read, because that could "
            "run code; use the safetensors edition of the model"
        )
    if isinstance(error, SafetensorError) and (name := _broken_safetensors(folder)):
        text = f"{name}: {text}; copy it again"
    elif not isinstance(error, OSError | ValueError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _broken_safetensors(folder: Path) -> str | None:
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError):
            return file.name
    return None
