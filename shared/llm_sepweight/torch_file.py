"""Reads files that `torch.save` wrote, or that claim to be such: nothing but tensors comes through."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from llm_sepweight.errors import CorruptFileError, UntrustedPickle

# The most text from a file that is shown, in characters.
_LONGEST_TEXT = 200


def open_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `torch.save` file. Raises CorruptFileError if it is no state dict, and what `open_torch_file`
    raises."""
    content = open_torch_file(path)
    tensors = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    )
    if not tensors:
        raise CorruptFileError(path, "holds something other than a dict of names and tensors")
    return dict(content)


def open_pickled_tensor(path: Path) -> torch.Tensor:
    """The one tensor of a `torch.save` file. Raises as `open_pickle` does."""
    content = open_torch_file(path)
    if not isinstance(content, torch.Tensor):
        raise CorruptFileError(path, "holds something other than one tensor")
    return content


def open_torch_file(path: Path) -> Any:
    """The content of a `torch.save` file, read weights-only, and mapped if its format allows it.

    Raises OSError if the file cannot be opened; UntrustedPickle if it refers to anything but tensors, or is damaged
    so that it seems to; CorruptFileError if it is damaged otherwise, or is not a torch file.
    """
    path.open("rb").close()
    try:
        with warnings.catch_warnings():
            # torch's warnings ask users to report odd pickles to its authors
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # torch's own message advises users to turn safe loading off
        raise UntrustedPickle(path, _unsafe_names(path)) from error
    except Exception as error:  # parsers of untrusted bytes raise errors of every kind, all meaning the same
        raise CorruptFileError(path, f"damaged, or not a torch file ({_reason(error)}): download it again") from error


def _unsafe_names(path: Path) -> list[str]:
    """What a refused pickle refers to besides tensors, found without running it; empty if that cannot be found."""
    try:
        return [_one_line(name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)]
    except Exception:  # noqa: BLE001 - the file was refused for good reason, and may be of any kind
        return []


def _reason(error: Exception) -> str:
    """The first line of an error's message, which may quote the file."""
    lines = str(error).strip().splitlines()
    return _one_line(lines[0]) if lines else type(error).__name__


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text[:_LONGEST_TEXT])
