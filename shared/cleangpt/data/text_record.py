"""What a model was trained on, and what was held out of it: a record beside the model.

Shapes: N tokens of a whole text.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from cleangpt.errors import ModelFolderError
from cleangpt.writing import replacing

TEXT_RECORD_FILE = "training_text.json"
DEFAULT_HELD_OUT = 0.05
"""The share at the end of a running text that is held out unless somebody says otherwise."""


@dataclass(frozen=True)
class TextRecord:
    """A text as the model's tokenizer reads it: a digest of its ids, how many they are, and how many were held out.

    Those held out are the last ones. `source` is what the user called the text.
    """

    source: str
    digest: str
    tokens: int
    held_out: int

    @classmethod
    def of(cls, source: str, ids_N: Tensor, held_out: int) -> "TextRecord":
        """The record of a text whose last `held_out` tokens were not trained on."""
        return cls(source, _digest(ids_N), len(ids_N), held_out)

    @classmethod
    def read(cls, folder: Path) -> "TextRecord | None":
        """The record of the model in `folder`; None if it has none. Raises ModelFolderError if it is damaged."""
        file = folder / TEXT_RECORD_FILE
        if not file.exists():
            return None
        try:
            found = cls(**json.loads(file.read_text(encoding="utf-8")))
            is_sound = 0 <= int(found.held_out) <= int(found.tokens)
        except (OSError, TypeError, ValueError, RecursionError) as error:
            raise ModelFolderError(f"{file} cannot be read ({error}); copy it again, or remove it") from error
        if not is_sound:
            raise ModelFolderError(f"{file} holds out {found.held_out} of {found.tokens} tokens; copy it again")
        return found

    def write(self, folder: Path) -> None:
        """Writes the record beside the model in `folder`."""
        with replacing(folder / TEXT_RECORD_FILE) as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def is_of(self, ids_N: Tensor) -> bool:
        """Whether this is the text."""
        return self.tokens == len(ids_N) and self.digest == _digest(ids_N)


def _digest(ids_N: Tensor) -> str:
    return hashlib.sha256(ids_N.numpy().tobytes()).hexdigest()
