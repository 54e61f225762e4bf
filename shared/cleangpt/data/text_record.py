"""What a model was trained on, and what was held out of it: a record beside the model.

Shapes: N tokens of a whole text.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from cleangpt.data.messages import Conversations
from cleangpt.errors import ModelFolderError
from cleangpt.writing import replacing

TEXT_RECORD_FILE = "training_text.json"
DEFAULT_HELD_OUT = 0.05
"""The share at the end of a running text that is held out unless somebody says otherwise."""


@dataclass(frozen=True)
class TextRecord:
    """A text: a digest, how many units it has, and how many of them were held out, which are the last ones.

    Running text is counted in tokens, and its digest is that of the ids that the model's tokenizer makes of it.
    `source` is what the user called the text.
    """

    source: str
    digest: str
    total: int
    held_out: int
    unit: str = "tokens"

    @classmethod
    def of(cls, source: str, ids_N: Tensor, held_out: int) -> "TextRecord":
        """The record of a text whose last `held_out` tokens were not trained on."""
        return cls(source, hashlib.sha256(ids_N.numpy().tobytes()).hexdigest(), len(ids_N), held_out)

    @classmethod
    def of_conversations(cls, source: str, found: Conversations, held_out: int) -> "TextRecord":
        """The record of conversations, the last `held_out` of which were not trained on."""
        return cls(source, found.digest, len(found.items), held_out, "conversations")

    @classmethod
    def read(cls, folder: Path) -> "TextRecord | None":
        """The record of the model in `folder`; None if it has none. Raises ModelFolderError if it is damaged."""
        file = folder / TEXT_RECORD_FILE
        if not file.exists():
            return None
        try:
            found = cls(**json.loads(file.read_text(encoding="utf-8")))
            is_sound = 0 <= int(found.held_out) <= int(found.total)
        except (OSError, TypeError, ValueError, RecursionError) as error:
            raise ModelFolderError(f"{file} cannot be read ({error}); copy it again, or remove it") from error
        if not is_sound:
            raise ModelFolderError(f"{file} holds out {found.held_out} of {found.total} {found.unit}; copy it again")
        return found

    def write(self, folder: Path) -> None:
        """Writes the record beside the model in `folder`."""
        with replacing(folder / TEXT_RECORD_FILE) as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def is_same_text(self, other: "TextRecord") -> bool:
        """Whether both are of the same text, whatever was held out of it."""
        return (self.unit, self.total, self.digest) == (other.unit, other.total, other.digest)
