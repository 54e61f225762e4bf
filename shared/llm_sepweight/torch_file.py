"""Reading what `torch.save` wrote, or something that is called like it: nothing but tensors comes through."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from llm_sepweight.errors import CorruptFileError, UntrustedPickle

# Of a file's own words that are shown, in characters.
_LONGEST_TEXT = 200


def open_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `torch.save` file. Raises CorruptFileError if it is no state dict, and what `open_torch_file`
    raises."""
    content = open_torch_file(path)
    tensors = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    )
    if not tensors:
        raise CorruptFileError(path, "holds something else than a dict of names and tensors")
    return dict(content)


def open_pickled_tensor(path: Path) -> torch.Tensor:
    """The one tensor of a `torch.save` file. Raises as `open_pickle` does."""
    content = open_torch_file(path)
    if not isinstance(content, torch.Tensor):
        raise CorruptFileError(path, "holds something else than one tensor")
    return content


def open_torch_file(path: Path) -> Any:
    """What a `torch.save` file holds, read weights-only, and mapped where its format allows it.

    Raises OSError if the file cannot be opened; UntrustedPickle if it names anything but tensors, or is damaged so
    that it seems to; CorruptFileError if it is damaged otherwise, or no such file at all.
    """
    path.open("rb").close()
    try:
        with warnings.catch_warnings():
            # torch asks to report odd pickles to its authors
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # torch's own words advise to switch the safe reading off
        raise UntrustedPickle(path, _unsafe_names(path)) from error
    except Exception as error:  # what readers of foreign bytes stumble over has no end, and all of it means one thing
        raise CorruptFileError(path, f"damaged, or no torch file ({_reason(error)}): download it again") from error


def _unsafe_names(path: Path) -> list[str]:
    """What a refused pickle names besides tensors, found without running it, and none where that cannot be found."""
    try:
        return [_one_line(name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)]
    except Exception:  # noqa: BLE001 - the file was refused for good reason, and may be of any kind
        return []


def _reason(error: Exception) -> str:
    """The first line of an error, which may quote the file."""
    lines = str(error).strip().splitlines()
    return _one_line(lines[0]) if lines else type(error).__name__


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text[:_LONGEST_TEXT])
