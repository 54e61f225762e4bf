"""Existing tokenizers: from a folder, or GPT-2's from Hugging Face's cache. Nothing is downloaded."""

from pathlib import Path
from typing import Self

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cleangpt.errors import TokenizerFilesError
from cleangpt.reasons import broken_json, reason_of
from cleangpt.tokenizers.base import BaseTokenizer, TokenizerRequest

GPT2_REPOSITORY = "openai-community/gpt2"
# older programs cached it under the short name
_GPT2_NAMES = (GPT2_REPOSITORY, "gpt2")


class HuggingFaceTokenizer(BaseTokenizer):
    """Any tokenizer that AutoTokenizer finds in a folder."""

    @classmethod
    def create(cls, request: TokenizerRequest) -> Self:
        """Loads the tokenizer in `request.folder`; `context`, if given, becomes its limit."""
        if request.folder is None:
            raise TokenizerFilesError(
                "a hugging_face tokenizer comes from a folder, but none was given; pass folder=DIR"
            )
        return cls(_with_context(load_tokenizer(request.folder), request.context))


class GPT2Tokenizer(BaseTokenizer):
    """The 50257 byte-level tokens of GPT-2 (Radford et al. 2019)."""

    @classmethod
    def create(cls, request: TokenizerRequest) -> Self:
        """Loads it from `request.folder`, else from Hugging Face's cache; TokenizerFilesError if neither has it."""
        if request.folder is not None:
            return cls(_with_context(load_tokenizer(request.folder), request.context))
        for name in _GPT2_NAMES:
            # load from the cached folder: by name, transformers also requires the model's config.json
            try:
                cached = snapshot_download(name, local_files_only=True)
            except LocalEntryNotFoundError:
                continue
            return cls(_with_context(load_tokenizer(cached), request.context))
        raise TokenizerFilesError(
            f"GPT-2's tokenizer is not in Hugging Face's cache under {' or '.join(_GPT2_NAMES)}; pass folder=DIR "
            f"with its files, or fetch them once: hf download {GPT2_REPOSITORY} --include '*.json' '*.txt'"
        )


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerFast:
    """Loads the tokenizer saved in `folder`, without contacting a hub.

    Raises TokenizerFilesError if the folder holds no tokenizer, or one that is not from the tokenizers library.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TokenizerFilesError(f"{folder} is not a folder; name one that save_pretrained wrote a tokenizer to")
    if reason := broken_json(folder):
        raise _no_tokenizer(folder, reason)
    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # for a broken file the tokenizers library raises a bare Exception, and transformers almost any other
        raise _no_tokenizer(folder, reason_of(error, folder)) from error
    if not isinstance(found, PreTrainedTokenizerFast):
        raise TokenizerFilesError(
            f"{folder} holds a {type(found).__name__}, which is written in Python; expected a tokenizer.json of the "
            "tokenizers library"
        )
    # transformers creates an empty tokenizer if it finds only a model's config.json
    if not found.get_vocab().keys() - set(found.all_special_tokens):
        raise TokenizerFilesError(
            f"{folder} holds no token; expected tokenizer.json and tokenizer_config.json beside the model's files"
        )
    return found


def _no_tokenizer(folder: Path, reason: str) -> TokenizerFilesError:
    return TokenizerFilesError(
        f"{folder} holds no tokenizer that can be read ({reason}); expected tokenizer.json and "
        "tokenizer_config.json, as save_pretrained writes them"
    )


def _with_context(fast: PreTrainedTokenizerFast, context: int | None) -> PreTrainedTokenizerFast:
    if context is not None:
        fast.model_max_length = context
    return fast
