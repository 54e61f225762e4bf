"""The error tree of cleangpt.

CleangptError
├── DocumentationMissingError   the interpreter's fault: no docstrings (python -OO)
├── CheckpointMismatchError     the caller's fault: the checkpoint belongs to another training
├── TrainingDivergedError       the settings' fault: the loss stopped being a number
└── ModelFolderError            the caller's fault: the folder holds no model that can be asked
"""


class CleangptError(Exception):
    """Root of everything that cleangpt raises on purpose."""


class DocumentationMissingError(CleangptError):
    """The running interpreter lacks the text that the questions are made from."""


class CheckpointMismatchError(CleangptError):
    """A checkpoint was written by a training with other settings, other text or another model."""


class TrainingDivergedError(CleangptError):
    """The loss became infinite or not a number; the last checkpoint is from before that."""


class ModelFolderError(CleangptError):
    """A folder named for evaluation holds neither a Hugging Face model nor a sepweight directory."""
