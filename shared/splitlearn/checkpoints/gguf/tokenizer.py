"""The tokenizer in a GGUF file, as the files that transformers would save of it."""

import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from splitlearn.errors import BadCheckpoint

_LONGEST_REASON = 300
_VOCABULARY = "model.gguf"


def tokenizer_files(path: Path) -> dict[str, bytes]:
    """Contents by name, made by transformers of the file's vocabulary.

    Raises:
        BadCheckpoint: transformers can make no tokenizer of it.
    """
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as alone:
        # in a folder of its own: transformers would read what lies beside it, too
        (Path(alone) / _VOCABULARY).symlink_to(path.resolve())
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(alone, gguf_file=_VOCABULARY, local_files_only=True)
            tokenizer.save_pretrained(made)
        except Exception as error:  # untrusted vocabularies can make the reader raise anything
            reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
            raise BadCheckpoint(f"the tokenizer in {path} cannot be read: {reason}") from error
        return {file.name: file.read_bytes() for file in sorted(Path(made).iterdir())}
