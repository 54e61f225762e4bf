"""The text that models are measured on.

Shapes: B rows, T positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cleangpt.data import (
    CONVERSATION_SOURCES,
    Batch,
    BlockSettings,
    TokenBlocks,
    conversation_rows,
    read_conversations,
    read_texts,
)
from cleangpt.data.blocks import joined_ids
from cleangpt.data.text_record import TextRecord
from cleangpt.errors import TextTooShortError, UsageError
from cleangpt.tokenizers import BaseTokenizer

LONGEST_BLOCK = 256
_PROMPTS = 4
_PROMPT_TOKENS = 16


@dataclass(frozen=True)
class TextChoice:
    """Which text to measure on, and how to cut it.

    `source` is a source for `cleangpt.data.read_texts`; conversations are measured on their answers. `block_size` None
    means the longest blocks that the models and the text allow, up to 256. `validation` uses only this share at the end
    of the text; the model's record says whether its training held that out. `max_batches` limits the number of batches.
    `parse_special_tokens` has to be what the training had.
    """

    source: str
    column: str = "text"
    max_samples: int | None = None
    block_size: int | None = None
    batch_size: int = 8
    validation: float | None = None
    max_batches: int | None = None
    parse_special_tokens: bool = False


@dataclass(frozen=True, eq=False)
class EvaluationText:
    """Batches to predict, and prompts from the same text.

    `tokens_per_byte` is the number of tokens to predict, end tokens included, per UTF-8 byte of the text. `note` says
    what the numbers do not: that the model was trained on the text, or may have been.
    """

    name: str
    batches: Sequence[Batch]
    tokens_per_byte: float
    prompts: tuple[str, ...]
    note: str | None = None


def read_evaluation_text(
    choice: TextChoice, tokenizer: BaseTokenizer, context: int | None, record: TextRecord | None = None
) -> EvaluationText:
    """Reads the text and encodes it.

    Args:
        context: how many positions the models have; None if there is no limit.
        record: what the model was trained on; None if that is not known.

    Raises:
        TextError: the source is unknown, empty, or too short.
        UsageError: the source holds conversations, of which no share at the end is held out, or the model was trained
            on a part of the share that is asked for.
        TokenizerError: the source holds conversations and the tokenizer has no chat template.
    """
    if choice.source in CONVERSATION_SOURCES:
        return _conversations(choice, tokenizer, context)
    texts = read_texts(choice.source, column=choice.column, max_samples=choice.max_samples)
    ids_N = joined_ids(texts, tokenizer, parse_special_tokens=choice.parse_special_tokens)
    n_bytes = sum(len(text.encode()) for text in texts)
    if not n_bytes or len(ids_N) < 4:
        raise TextTooShortError(f"{choice.source} has {len(ids_N)} tokens; at least 4 are needed to measure anything")
    known = record if record is not None and record.is_of(ids_N) else None
    note = _note(choice, record, known)
    block = choice.block_size or min(LONGEST_BLOCK, context or LONGEST_BLOCK, len(ids_N) // 2)
    if choice.validation is not None:
        ids_N = _share(choice, ids_N, known, block)
        block = choice.block_size or min(block, len(ids_N) // 2)
        n_bytes = len(tokenizer.decode([each for each in ids_N.tolist() if each != tokenizer.end_id]).encode())
    blocks = TokenBlocks(ids_N, BlockSettings(block, choice.batch_size), shuffled=False)
    batches = blocks.batches(0)[: choice.max_batches]
    starts = batches[0].ids_BT[:: max(1, len(batches[0].ids_BT) // _PROMPTS)][:_PROMPTS]
    prompts = tuple(tokenizer.decode(row_T[: min(_PROMPT_TOKENS, block // 2)].tolist()) for row_T in starts)
    return EvaluationText(choice.source, batches, len(ids_N) / max(1, n_bytes), prompts, note)


def _share(choice: TextChoice, ids_N: Tensor, known: TextRecord | None, block: int) -> Tensor:
    """The share at the end of the text that is asked for, at least one block of it.

    Raises:
        UsageError: the model is known to be trained on a part of it.
    """
    asked, total = choice.validation or 0.0, len(ids_N)
    if known is None:
        _, held_out = TokenBlocks(ids_N, BlockSettings(block, choice.batch_size), shuffled=False).split(asked)
        return held_out.ids_N
    wanted = round(asked * total)
    if wanted > known.held_out:
        learned = f"all but the last {known.held_out / total:.2%}" if known.held_out else "all"
        raise UsageError(
            f"the model was trained on {learned} of this text, and --validation asks for {asked:.2%}; "
            "ask for what was held out, or leave --validation out to measure on all of it"
        )
    return ids_N[total - min(known.held_out, max(wanted, block)) :]


def _note(choice: TextChoice, record: TextRecord | None, known: TextRecord | None) -> str | None:
    """What has to be said about a text that the model may have been trained on."""
    if known is not None and choice.validation is None:
        held_out = "nothing was held out" if not known.held_out else f"the last {known.held_out} tokens were held out"
        return f"the model was trained on this text: {held_out}"
    if known is None and choice.validation is not None:
        why = "it does not say what it was trained on" if record is None else f"it was trained on {record.source}"
        return f"whether the model has seen this share is not known: {why}"
    return None


def _conversations(choice: TextChoice, tokenizer: BaseTokenizer, context: int | None) -> EvaluationText:
    if choice.validation is not None:
        raise UsageError(f"{choice.source} holds conversations, which are measured whole: leave --validation out")
    questions = read_conversations(choice.source)[: choice.max_samples]
    longest = min(choice.block_size or LONGEST_BLOCK, context or LONGEST_BLOCK)
    rows = conversation_rows(
        questions, tokenizer.fast, batch_tokens=choice.batch_size * longest, context=longest, seed=0
    )
    batches = rows.batches(0)
    learned = sum(sum(row.learned) for batch in rows.rows(0) for row in batch)
    n_bytes = sum(len(question.answer.encode()) for question in questions)
    asked = questions[:: max(1, len(questions) // _PROMPTS)][:_PROMPTS]
    prompts = tuple(
        tokenizer.fast.apply_chat_template(
            [{"role": "user", "content": question.phrasings[0]}], tokenize=False, add_generation_prompt=True
        )
        for question in asked
    )
    return EvaluationText(choice.source, batches[: choice.max_batches], learned / max(1, n_bytes), prompts)
