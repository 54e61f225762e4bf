"""Whether the merges of a byte-pair tokenizer are all there, where they lie in a file of their own."""

import re
from pathlib import Path
from typing import Any, Final

from splitlearn.errors import BadCheckpoint

_VOCABULARY: Final = "vocab.json"
_MERGES: Final = "merges.txt"
_WHOLE: Final = "tokenizer.json"
_SPECIAL: Final = re.compile(r"[<\[].*[>\]]", re.DOTALL)
_LEAST_SHARE: Final = 0.9
"""Merges by tokens of several characters. Each merge makes one such token, and authors add few others."""


def check_merges(folder: Path, vocabulary: dict[str, Any]) -> None:
    """Checks that merges.txt makes the tokens of vocab.json: from half a file text becomes other tokens in silence.

    Args:
        vocabulary: what vocab.json holds.

    Raises:
        BadCheckpoint: it makes too few of them.
    """
    if not (folder / _MERGES).is_file() or (folder / _WHOLE).is_file():
        return
    try:
        lines = (folder / _MERGES).read_text(encoding="utf-8").splitlines()
    except ValueError as error:
        raise BadCheckpoint(f"{folder / _MERGES} is not text ({error}); download it again") from error
    n_merges = sum(" " in line for line in lines if not line.startswith("#version"))
    n_merged = sum(len(token) > 1 and _SPECIAL.fullmatch(token) is None for token in vocabulary)
    if n_merges < _LEAST_SHARE * n_merged:
        raise BadCheckpoint(
            f"{folder / _MERGES} has {n_merges} merges for the {n_merged} tokens of {_VOCABULARY} that merges make; it "
            "is cut off or of another model: download it again"
        )
