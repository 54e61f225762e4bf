"""Whether a vocabulary of one token in each line may have been cut off, which nothing inside of such a file shows."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

_WHOLE: Final = "tokenizer.json"
_OF_LINES: Final = ("vocab.txt", "*.tiktoken", "tiktoken.model")
_LEAST_SHARE: Final = 0.9
"""Lines by embeddings. Authors pad their tables with few rows."""


def maybe_cut_off(files: Mapping[str, Path | bytes], n_embeddings: int) -> list[str]:
    """One line for each of a tokenizer's files that has too few tokens for the model, with what to do.

    Args:
        files: the tokenizer's, by name.
        n_embeddings: rows of the model's table. It may be padded, so that too few tokens are no error.
    """
    if _WHOLE in files:
        return []
    counted = {name: _n_lines(file) for name, file in files.items() if _is_of_lines(name)}
    return [
        f"{name} has {n_lines} tokens, and the model {n_embeddings} embeddings; if the file is cut off or of another "
        "model, text becomes other tokens: download it again"
        for name, n_lines in counted.items()
        if n_lines < _LEAST_SHARE * n_embeddings
    ]


def _is_of_lines(name: str) -> bool:
    return any(PurePosixPath(name).match(pattern) for pattern in _OF_LINES)


def _n_lines(file: Path | bytes) -> int:
    content = file if isinstance(file, bytes) else file.read_bytes()
    return sum(bool(line.strip()) for line in content.splitlines())
