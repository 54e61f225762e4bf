"""Which files of a checkpoint go with its weights: the one list of convert, of downloads and of the client service.

Most of them make its tokenizer.

Pure: names only.
"""

from collections.abc import Iterable
from pathlib import PurePosixPath

_TEKKEN = "*tekken*.json"

VOCABULARY_FILES = (
    "tokenizer.json",
    "tokenizer.*.json",
    _TEKKEN,
    "*.model",
    "*.model.v*",
    "*.spm",
    "*.tiktoken",
    "*.tokenizer",
    "vocab.txt",
    "vocab.json",
    "vocab-*.json",
    "byte_maps.json",
)
"""Patterns of files any of which is a vocabulary: where none is, there is no tokenizer."""

MODULES = "modules.json"
"""Where sentence-transformers lists what an embedding goes through. A JSON list; all other JSON files are objects."""

PROCESSORS_TEMPLATE = "chat_template.json"
"""Where a processor's chat template lies; a tokenizer's own comes before it."""

TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "merges.txt",
    "bpe.codes",
    "dict.txt",
    "emoji.json",
    "normalizer.json",
    "*_vocab.json",
    "word_shape.json",
    "word_pronunciation.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    PROCESSORS_TEMPLATE,
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    MODULES,
    "*_Pooling/config.json",
    "config_sentence_transformers.json",
)
"""Patterns of all files that go with a model beside its config and weights."""


def has_vocabulary(names: Iterable[str]) -> bool:
    """Whether one of the files of these names holds a vocabulary."""
    return any(PurePosixPath(name).match(pattern) for name in names for pattern in VOCABULARY_FILES)


def is_tekken_alone(names: Iterable[str]) -> bool:
    """Whether the vocabulary is one of Mistral's tekken format, and there is no other that would be read first."""
    found = set(names)
    return "tokenizer.json" not in found and any(PurePosixPath(name).match(_TEKKEN) for name in found)
