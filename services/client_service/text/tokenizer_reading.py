"""A tokenizer out of the files beside the weights, whatever form they come in, with its special tokens and template."""

import json
from pathlib import Path
from typing import Any, Final

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase, TokenizersBackend

from client_service.errors import BadModelFiles
from splitlearn.checkpoints.tokenizer_files import (
    PROCESSORS_TEMPLATE,
    VOCABULARY_FILES,
    has_vocabulary,
    is_tekken_alone,
)

# What Mistral's tokens are for, which tekken.json does not say; as in transformers' own conversion of it.
_TEKKEN_TOKENS: Final = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
_LONGEST_REASON: Final = 300


def read_tokenizer(weights: Path, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a sepweight directory. `config` is the model's.

    Raises:
        FileNotFoundError: the directory holds none.
        BadModelFiles: its files cannot be read; the message is one line.
    """
    names = [path.name for path in weights.iterdir()]
    if not has_vocabulary(names):
        # transformers would make an empty tokenizer of the model's kind
        raise FileNotFoundError(
            f"{weights} holds no tokenizer ({', '.join(VOCABULARY_FILES)}); convert a checkpoint that has one, "
            "or copy its files there"
        )
    is_tekken = is_tekken_alone(names)
    # with the package mistral-common transformers would make a tokenizer that knows no chat template
    kind: Any = TokenizersBackend if is_tekken else AutoTokenizer
    own = {} if is_tekken else {"config": config}
    try:
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(
            weights, **own, local_files_only=True, trust_remote_code=False
        )
        if is_tekken:
            _name_tokens(tokenizer)
    except Exception as error:  # what readers of a stranger's files stumble over has no end
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise BadModelFiles(
            f"the tokenizer in {weights} cannot be read: {reason} (copy its files there again, or a tokenizer.json)"
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
        # all of Mistral's models are trained with it in front
        tokenizer.add_bos_token = tokenizer.bos_token is not None


def _processors_template(file: Path) -> str | dict[str, str]:
    """What processors keep apart from the tokenizer, which transformers' tokenizers do not look at."""
    try:
        template = json.loads(file.read_bytes())["chat_template"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise BadModelFiles(f"{file} holds no chat_template; mend it, or remove it") from error
    texts = list(template.values()) if isinstance(template, dict) else [template]
    if not all(isinstance(text, str) for text in texts):
        raise BadModelFiles(f"{file}: its chat_template is no text; mend it, or remove it")
    return template  # type: ignore[no-any-return]
