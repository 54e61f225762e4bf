"""Tokenizers that exist already: from a folder, or GPT-2's from Hugging Face's cache. Nothing is downloaded."""

from pathlib import Path
from typing import Self

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cleangpt.errors import TokenizerFilesError
from cleangpt.reasons import broken_json, reason_of
from cleangpt.tokenizers.base import BaseTokenizer, TokenizerRequest

GPT2_REPOSITORY = "openai-community/gpt2"
# the short name is what older programs cached it under
_GPT2_NAMES = (GPT2_REPOSITORY, "gpt2")


class HuggingFaceTokenizer(BaseTokenizer):
    """Any tokenizer that AutoTokenizer finds in a folder."""

    @classmethod
    def create(cls, request: TokenizerRequest) -> Self:
        """The tokenizer in `request.folder`, its limit set to `context` where one is given."""
        if request.folder is None:
            raise TokenizerFilesError(
                "a hugging_face tokenizer comes from a folder, but none was given; pass folder=DIR"
            )
        return cls(_with_context(load_tokenizer(request.folder), request.context))


class GPT2Tokenizer(BaseTokenizer):
    """The 50257 byte-level tokens of GPT-2 (Radford et al. 2019)."""

    @classmethod
    def create(cls, request: TokenizerRequest) -> Self:
        """From `request.folder`, else from Hugging Face's cache; TokenizerFilesError where neither has it."""
        if request.folder is not None:
            return cls(_with_context(load_tokenizer(request.folder), request.context))
        for name in _GPT2_NAMES:
            # from its folder: by name, transformers asks for the model's config.json too
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
    """The tokenizer saved in `folder`, without asking any hub.

    Raises TokenizerFilesError where there is none, or none of the tokenizers library.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TokenizerFilesError(f"{folder} is not a folder; name one that save_pretrained wrote a tokenizer to")
    if reason := broken_json(folder):
        raise _no_tokenizer(folder, reason)
    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # the tokenizers library tells a broken file by a bare Exception, and transformers by nearly any other
        raise _no_tokenizer(folder, reason_of(error, folder)) from error
    if not isinstance(found, PreTrainedTokenizerFast):
        raise TokenizerFilesError(
            f"{folder} holds a {type(found).__name__}, which is written in Python; expected a tokenizer.json of the "
            "tokenizers library"
        )
    # transformers makes an empty tokenizer where it finds a model's config.json and nothing else
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
