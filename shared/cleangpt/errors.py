"""The error tree of cleangpt.

CleangptError
├── DocumentationMissingError   the interpreter's fault: no docstrings (python -OO)
├── CheckpointMismatchError     the caller's fault: the checkpoint belongs to another training
├── CheckpointBrokenError       the disk's or the caller's fault: a file that is not a complete checkpoint
├── NotWrittenError             the disk's fault: a file that cannot be written, for it is full or read-only
├── TrainingSettingsError       the caller's fault: impossible settings, such as a training that never ends
├── UnknownTrainerError         the caller's fault: no trainer has that name
├── BatchFormatError            the caller's fault: a dataloader yields something other than rows of token ids
├── EmptyDataError              the caller's fault: nothing to train on or to validate with
├── PackageMissingError         the installation's fault: the request needs a package that is not installed
├── ModelUnknownError           the caller's fault: no such model type, or a field that it does not have
├── UsageError                  the caller's fault: flags or a settings file that make no sense
├── RunRecordError              the caller's fault: a directory whose run cannot be repeated
├── RunDiffersError             nobody's fault: a repeated run that is not the run of before
├── TrainingDivergedError       the settings' fault: the loss is no longer finite
├── TokenizerError              the caller's fault: the arguments do not make a tokenizer
│   ├── UnknownTokenizerError   neither a registered name nor a folder
│   ├── TokenizerTextError      no text to train on, or a vocabulary that is too small for it
│   └── TokenizerFilesError     the folder or the cache holds no fast tokenizer
├── TextError                   the caller's fault: text that cannot be trained on
│   ├── UnknownTextSourceError  neither a registered name nor a path
│   ├── EmptyTextError          nothing to read at the source
│   ├── UndecodableTextError    a file that is not UTF-8
│   ├── RecordError             a file whose lines or rows cannot be read as records
│   ├── TextColumnError         no such split or column, or a column without texts or messages
│   └── TextTooShortError       fewer tokens than one block
├── ModelError                  the caller's fault: an impossible model, or one that cannot read its input
│   ├── BadConfigError          sizes that are out of range or contradict each other
│   ├── ModelOptionError        an option that the model does not have
│   ├── ModelNameTakenError     another builder already has the name
│   ├── ModelFormError          a plain module where a model in Hugging Face's form is needed
│   └── BadInputError           a text that is too long, ids outside the vocabulary, or ids and embeddings at once
├── PruningError                the caller's fault: a tokenizer or model that cannot be pruned without changing it
├── DistillationError           the caller's fault: a student that cannot be fitted to its teacher
│   ├── UnknownLossError        no loss of that name
│   ├── LossArgumentsError      a loss that cannot be called with the student's logits and the teacher's
│   ├── VocabularyMismatchError teacher and student read different ids
│   ├── StitchingNeededError    unequal widths without stitching layers
│   ├── InitializationError     a student whose weights do not have the shapes of the teacher's
│   ├── BlockMapError           a map that does not name one teacher block for each student block
│   ├── ShadowTooLargeError     every shadow of that shape has more parameters than allowed
│   ├── TrunkMismatchError      a trunk or shadow of another model, cut or dtype than the ends
│   ├── ShadowFolderError       the folder holds no complete shadow
│   └── TokenizersDifferError   teacher and student have equally many tokens, but not the same ones
├── GenerationError             the caller's fault: no text can be generated from the arguments
│   ├── GenerationSettingsError a sampling parameter with a meaningless value
│   └── PromptError             a prompt that the model cannot continue
└── ModelFolderError            the caller's fault: the folder holds no model that can be loaded
"""


class CleangptError(Exception):
    """Root of all errors that cleangpt raises on purpose."""


class DocumentationMissingError(CleangptError):
    """The running interpreter lacks the docstrings that the questions are made from."""


class CheckpointMismatchError(CleangptError):
    """A checkpoint was written by a training with other settings, text, start weights, model or teacher."""


class TrainingDivergedError(CleangptError):
    """A loss, a gradient or a weight became infinite or NaN; the last checkpoint is from before that."""


class ModelFolderError(CleangptError):
    """A folder holds neither a Hugging Face model nor a sepweight directory, or one that cannot be read."""


class TokenizerError(CleangptError):
    """The arguments do not make a tokenizer."""


class UnknownTokenizerError(TokenizerError):
    """A kind of tokenizer that is neither registered nor a folder, or a name registered twice."""


class TokenizerTextError(TokenizerError):
    """There is no text to train a tokenizer on, or the vocabulary is too small for the tokens that every text needs."""


class TokenizerFilesError(TokenizerError):
    """A folder, or Hugging Face's cache, holds no tokenizer of the tokenizers library."""


class TextError(CleangptError):
    """The text cannot be trained on."""


class UnknownTextSourceError(TextError):
    """A source that is neither registered nor a path, or a name registered twice."""


class EmptyTextError(TextError):
    """The source holds nothing to read."""


class UndecodableTextError(TextError):
    """A file is not UTF-8 text."""


class RecordError(TextError):
    """A line is not a JSON object, or a Parquet or compressed file is damaged."""


class TextColumnError(TextError):
    """The named split or column does not exist, or the column holds neither texts nor lists of messages."""


class TextTooShortError(TextError):
    """The text has fewer tokens than one block."""


class PruningError(CleangptError):
    """A tokenizer or a model cannot be pruned without changing what it does with the analyzed text."""


class NotCausalError(CleangptError):
    """A model predicts ids from those after them, so training it as a causal language model would mean nothing."""


class FolderInUseError(CleangptError):
    """Another training writes to the folder."""


class CheckpointBrokenError(CleangptError):
    """A checkpoint file is missing, truncated or from another program; it is left unchanged."""


class NotWrittenError(CleangptError):
    """A file or folder cannot be written, because the disk is full or forbids it."""


class TrainingSettingsError(CleangptError):
    """Settings are out of range or contradict each other."""


class UnknownTrainerError(CleangptError):
    """No trainer is registered under the name."""


class BatchFormatError(CleangptError):
    """A dataloader yields something that cannot be read as rows of token ids."""


class EmptyDataError(CleangptError):
    """There is no batch to train on or to validate with."""


class PackageMissingError(CleangptError):
    """An optional package is needed and not installed."""


class ModelUnknownError(CleangptError):
    """A model type is neither registered here nor known to transformers, or has no such field."""


class UsageError(CleangptError):
    """The command line or its settings file makes no sense."""


class RunRecordError(CleangptError):
    """A directory has no record of its run, a damaged one, or one of a run that cannot be repeated here."""


class RunDiffersError(CleangptError):
    """A run that should repeat another has other data, start weights or results."""


class ModelError(CleangptError):
    """A model cannot be built as configured, or cannot read its input."""


class BadConfigError(ModelError):
    """A size is out of range, or two sizes contradict each other."""


class ModelOptionError(ModelError):
    """An option was given to a model that does not have it."""


class ModelNameTakenError(ModelError):
    """The name that a model is registered under is already taken."""


class ModelFormError(ModelError):
    """A module lacks what every causal language model of transformers has."""


class BadInputError(ModelError):
    """A model got a text longer than its positions, ids that it lacks, or not exactly one of ids and embeddings."""


class DistillationError(CleangptError):
    """A student cannot be fitted to its teacher as requested."""


class UnknownLossError(DistillationError):
    """There is no loss of this kind."""


class LossArgumentsError(DistillationError):
    """A loss of one's own takes other arguments than the student's logits, the teacher's and perhaps the next ids."""


class VocabularyMismatchError(DistillationError):
    """Teacher and student have vocabularies of different sizes, so equal ids do not mean the same text."""

    def __init__(self, *, student: int, teacher: int) -> None:
        super().__init__(
            f"the student's vocabulary has {student} entries, the teacher's {teacher}; "
            "give the student the teacher's tokenizer and vocab_size"
        )
        self.student = student
        self.teacher = teacher


class StitchingNeededError(DistillationError):
    """Blocks of unequal width cannot be compared without a map between them."""


class InitializationError(DistillationError):
    """The student's weights cannot be the teacher's, because their shapes or the architectures differ."""


class BlockMapError(DistillationError):
    """A block map names blocks that do not exist, too few of them, or blocks out of order."""


class ShadowTooLargeError(DistillationError):
    """No shadow of the requested shape fits into the requested number of parameters."""


class TrunkMismatchError(DistillationError):
    """A trunk or a shadow belongs to another model, cut or dtype than the given bottom and top."""


class ShadowFolderError(DistillationError):
    """A folder holds no shadow, or one whose files are damaged."""


class TokenizersDifferError(DistillationError):
    """Teacher and student have vocabularies of equal size with different tokens."""


class GenerationError(CleangptError):
    """No text can be generated from the arguments."""


class GenerationSettingsError(GenerationError):
    """A sampling parameter has a meaningless value, or two parameters exclude each other."""


class PromptError(GenerationError):
    """A prompt is empty, too long for the model, or contains ids that the model does not have."""
