"""The text that models are measured on.

Shapes: B rows, T positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    of the text, which a training with the same value did not see. `max_batches` limits the number of batches.
    """

    source: str
    column: str = "text"
    max_samples: int | None = None
    block_size: int | None = None
    batch_size: int = 8
    validation: float | None = None
    max_batches: int | None = None


@dataclass(frozen=True, eq=False)
class EvaluationText:
    """Batches to predict, and prompts from the same text.

    `tokens_per_byte` is the number of tokens to predict, end tokens included, per UTF-8 byte of the text.
    """

    name: str
    batches: Sequence[Batch]
    tokens_per_byte: float
    prompts: tuple[str, ...]


def read_evaluation_text(choice: TextChoice, tokenizer: BaseTokenizer, context: int | None) -> EvaluationText:
    """Reads the text and encodes it.

    Args:
        context: how many positions the models have; None if there is no limit.

    Raises:
        TextError: the source is unknown, empty, or too short.
        UsageError: the source holds conversations, of which no share at the end is held out.
        TokenizerError: the source holds conversations and the tokenizer has no chat template.
    """
    if choice.source in CONVERSATION_SOURCES:
        return _conversations(choice, tokenizer, context)
    texts = read_texts(choice.source, column=choice.column, max_samples=choice.max_samples)
    ids_N = joined_ids(texts, tokenizer)
    n_bytes = sum(len(text.encode()) for text in texts)
    if not n_bytes or len(ids_N) < 4:
        raise TextTooShortError(f"{choice.source} has {len(ids_N)} tokens; at least 4 are needed to measure anything")
    block = choice.block_size or min(LONGEST_BLOCK, context or LONGEST_BLOCK, len(ids_N) // 2)
    settings = BlockSettings(block, choice.batch_size)
    blocks = TokenBlocks(ids_N, settings, shuffled=False)
    if choice.validation is not None:
        _, blocks = blocks.split(choice.validation)
        ids_N = blocks.ids_N
        n_bytes = len(tokenizer.decode([each for each in ids_N.tolist() if each != tokenizer.end_id]).encode())
    batches = blocks.batches(0)[: choice.max_batches]
    starts = batches[0].ids_BT[:: max(1, len(batches[0].ids_BT) // _PROMPTS)][:_PROMPTS]
    prompts = tuple(tokenizer.decode(row_T[: min(_PROMPT_TOKENS, block // 2)].tolist()) for row_T in starts)
    return EvaluationText(choice.source, batches, len(ids_N) / max(1, n_bytes), prompts)


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
