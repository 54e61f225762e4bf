"""The error tree of cleangpt.

CleangptError
├── DocumentationMissingError   the interpreter's fault: no docstrings (python -OO)
├── CheckpointMismatchError     the caller's fault: the checkpoint belongs to another training
├── CheckpointBrokenError       the disk's or the caller's fault: a file that is no whole checkpoint
├── TrainingSettingsError       the caller's fault: a training that cannot be, such as one without an end
├── UnknownTrainerError         the caller's fault: no trainer of that name
├── BatchFormatError            the caller's fault: a dataloader yields what is no rows of token ids
├── EmptyDataError              the caller's fault: nothing to train on or to validate with
├── PackageMissingError         the installation's fault: what was asked for needs a package that is not here
├── ModelUnknownError           the caller's fault: no such model type, or a field that it does not have
├── UsageError                  the caller's fault: flags or a settings file that make no sense
├── TrainingDivergedError       the settings' fault: the loss stopped being a number
├── TokenizerError              the caller's fault: a tokenizer cannot be made from what was given
│   ├── UnknownTokenizerError   neither a registered name nor a folder
│   ├── TokenizerTextError      no text to train on, or a vocabulary that it does not fit into
│   └── TokenizerFilesError     the folder or the cache holds no fast tokenizer
├── TextError                   the caller's fault: text that cannot be trained on
│   ├── UnknownTextSourceError  neither a registered name nor a path
│   ├── EmptyTextError          nothing to read at the source
│   ├── UndecodableTextError    a file that is not UTF-8
│   ├── TextColumnError         a dataset without the named split or column
│   └── TextTooShortError       fewer tokens than one block
├── ModelError                  the caller's fault: a model that cannot be, or that cannot read what it was given
│   ├── BadConfigError          sizes that contradict each other or lie outside of what can be
│   ├── ModelNameTakenError     another builder has the name already
│   └── BadInputError           a text longer than the learned positions, or token ids and embeddings at once
├── PruningError                the caller's fault: a tokenizer or model that cannot be pruned without changing it
├── DistillationError           the caller's fault: a student that cannot be fitted to its teacher
│   ├── UnknownLossError        no loss of that name
│   ├── VocabularyMismatchError teacher and student read different ids
│   ├── StitchingNeededError    unequal widths without stitching layers
│   ├── BlockMapError           a map that does not name one teacher block for each student block
│   ├── ShadowTooLargeError     no shadow of that shape has so few parameters
│   ├── TrunkMismatchError      trunk or shadow are of another model, cut or dtype than the ends
│   ├── ShadowFolderError       the folder holds no whole shadow
│   └── TokenizersDifferError   teacher and student have as many tokens, but not the same ones
├── GenerationError             the caller's fault: no text can be generated from what was given
│   ├── GenerationSettingsError a rule for choosing ids that has no meaning
│   └── PromptError             a prompt that the model cannot go on with
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
    """A folder holds neither a Hugging Face model nor a sepweight directory, or one that cannot be read."""


class TokenizerError(CleangptError):
    """A tokenizer cannot be made from what was given."""


class UnknownTokenizerError(TokenizerError):
    """A kind of tokenizer that is neither registered nor a folder, or a name registered twice."""


class TokenizerTextError(TokenizerError):
    """There is no text to train a tokenizer on, or the vocabulary has no room for what every text needs."""


class TokenizerFilesError(TokenizerError):
    """A folder, or Hugging Face's cache, holds no tokenizer of the tokenizers library."""


class TextError(CleangptError):
    """Text that cannot be trained on."""


class UnknownTextSourceError(TextError):
    """A source that is neither registered nor a path, or a name registered twice."""


class EmptyTextError(TextError):
    """There is nothing to read at the source."""


class UndecodableTextError(TextError):
    """A file is not UTF-8 text."""


class TextColumnError(TextError):
    """A dataset lacks the named split or column, or the column holds no text."""


class TextTooShortError(TextError):
    """The text has fewer tokens than the blocks to cut it into."""


class PruningError(CleangptError):
    """A tokenizer or a model cannot be cut down without changing what it does with the analysed text."""


class CheckpointBrokenError(CleangptError):
    """A checkpoint file is cut short or was written by something else; it stays as it is."""


class TrainingSettingsError(CleangptError):
    """Settings contradict each other or lie outside of what a training can have."""


class UnknownTrainerError(CleangptError):
    """No trainer is registered under the name."""


class BatchFormatError(CleangptError):
    """What a dataloader yields cannot be read as rows of token ids."""


class EmptyDataError(CleangptError):
    """There is no batch to train on or to validate with."""


class PackageMissingError(CleangptError):
    """A package that only some uses need is not installed."""


class ModelUnknownError(CleangptError):
    """A model type is neither registered here nor known to transformers, or has no such field."""


class UsageError(CleangptError):
    """The command line or its settings file asks for something that makes no sense."""


class ModelError(CleangptError):
    """A model cannot be made from what was given, or cannot read it."""


class BadConfigError(ModelError):
    """A size is out of range, or two sizes contradict each other."""


class ModelNameTakenError(ModelError):
    """A model is to be registered under a name that another one has."""


class BadInputError(ModelError):
    """A model is given a text longer than its positions, or not exactly one of token ids and embeddings."""


class DistillationError(CleangptError):
    """A student cannot be fitted to its teacher as it was asked for."""


class UnknownLossError(DistillationError):
    """A kind of loss that does not exist."""


class VocabularyMismatchError(DistillationError):
    """Teacher and student have vocabularies of different sizes: their ids do not mean the same text."""

    def __init__(self, *, student: int, teacher: int) -> None:
        super().__init__(
            f"the student's vocabulary has {student} entries, the teacher's {teacher}; "
            "give the student the teacher's tokenizer and vocab_size"
        )
        self.student = student
        self.teacher = teacher


class StitchingNeededError(DistillationError):
    """Blocks of unequal width are to be compared without a map between them."""


class BlockMapError(DistillationError):
    """A block map names blocks that do not exist, too few, or not in order."""


class ShadowTooLargeError(DistillationError):
    """No shadow of the wished shape fits into the wished number of parameters."""


class TrunkMismatchError(DistillationError):
    """A trunk or a shadow belongs to another model, cut or dtype than the bottom and top at hand."""


class ShadowFolderError(DistillationError):
    """A folder holds no shadow, or one whose files are damaged."""


class TokenizersDifferError(DistillationError):
    """Teacher and student have vocabularies of one size with other tokens in them."""


class GenerationError(CleangptError):
    """No text can be generated from what was given."""


class GenerationSettingsError(GenerationError):
    """A rule for choosing the next id has a value without meaning, or two rules exclude each other."""


class PromptError(GenerationError):
    """A prompt is empty, too long for the model, or in ids that the model does not have."""
