"""Reads the tokenizer beside the weights, in any of its file formats, with its special tokens and chat template."""

import json
from pathlib import Path
from typing import Any, Final

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase, TokenizersBackend

from splitlearn.checkpoints.folder import tokenizer_files
from splitlearn.checkpoints.tokenizer_files import (
    PROCESSORS_TEMPLATE,
    VOCABULARY_FILES,
    has_vocabulary,
    is_tekken_alone,
)
from splitlearn.errors import BadCheckpoint
from splitlearn_client.errors import BadModelFiles

# The roles of Mistral's special tokens, which tekken.json does not give; as in transformers' own conversion.
_TEKKEN_TOKENS: Final = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
_LONGEST_REASON: Final = 300


def read_tokenizer(weights: Path, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a sepweight directory. `config` is the model's.

    Raises:
        FileNotFoundError: the directory has no tokenizer.
        BadModelFiles: its files cannot be read, or one is a link out of the directory; the message is one line.
    """
    try:
        names = tokenizer_files(weights)
    except BadCheckpoint as error:
        raise BadModelFiles(str(error)) from error
    if not has_vocabulary(names):
        # transformers would create an empty tokenizer
        raise FileNotFoundError(
            f"{weights} holds no tokenizer ({', '.join(VOCABULARY_FILES)}); convert a checkpoint that has one, "
            "or copy its files there"
        )
    is_tekken = is_tekken_alone(names)
    # if mistral-common is installed, transformers would create a tokenizer without a chat template
    kind: Any = TokenizersBackend if is_tekken else AutoTokenizer
    own = {} if is_tekken else {"config": config}
    try:
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(
            weights, **own, local_files_only=True, trust_remote_code=False
        )
        if is_tekken:
            _name_tokens(tokenizer)
    except Exception as error:  # untrusted files can make the reader raise anything
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        missing = "it lacks " if isinstance(error, KeyError) else ""
        vocabularies = ", ".join(name for name in names if has_vocabulary([name]))
        raise BadModelFiles(
            f"the tokenizer in {weights} ({vocabularies}) cannot be read: {missing}{reason} (copy its files there "
            "again, or a tokenizer.json)"
        ) from error
    if not tokenizer.chat_template and (weights / PROCESSORS_TEMPLATE).is_file():
        tokenizer.chat_template = _processors_template(weights / PROCESSORS_TEMPLATE)
    return tokenizer


def _name_tokens(tokenizer: Any) -> None:
    known = tokenizer.get_vocab()
    for name, token in _TEKKEN_TOKENS.items():
        if getattr(tokenizer, name) is None and token in known:
            setattr(tokenizer, name, token)
    if "add_bos_token" not in tokenizer.init_kwargs:
        # all of Mistral's models are trained with this token first
        tokenizer.add_bos_token = tokenizer.bos_token is not None


def _processors_template(file: Path) -> str | dict[str, str]:
    """The chat template of a processor's own file, which transformers' tokenizers do not read."""
    try:
        template = json.loads(file.read_bytes())["chat_template"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise BadModelFiles(f"{file} holds no chat_template; correct or remove it") from error
    texts = list(template.values()) if isinstance(template, dict) else [template]
    if not all(isinstance(text, str) for text in texts):
        raise BadModelFiles(f"{file}: its chat_template is no text; correct or remove it")
    return template  # type: ignore[no-any-return]
