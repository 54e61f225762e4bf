"""The error tree of splitlearn_privacy.

PrivacyReportError     exit 1
├── TooLittleText      the caller's fault: too few texts, or too short ones, to train attacks and to test them
├── UnknownToken       the caller's fault: texts with tokens that the model has no embedding for
├── TextTooLong        the caller's fault: texts that are longer than the model's context
└── OtherModel         the caller's fault: the weights that the worker is said to know are of another model
"""


class PrivacyReportError(Exception):
    """Root of this package's errors."""


class TooLittleText(PrivacyReportError):
    """The source has not enough text."""


class OtherModel(PrivacyReportError):
    """The public model is not the one that the client's was trained from."""


class TextTooLong(PrivacyReportError):
    """The model's context is shorter than the texts."""


class UnknownToken(PrivacyReportError):
    """The tokenizer has more tokens than the model has embeddings, and the texts use them."""
