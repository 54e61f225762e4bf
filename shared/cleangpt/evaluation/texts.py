"""The text that models are measured on.

Shapes: N tokens of a whole text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cleangpt.data import Batch, BlockSettings, Conversations, TokenBlocks, conversation_rows, read_source
from cleangpt.data.blocks import joined_ids
from cleangpt.data.messages import ASSISTANT
from cleangpt.data.text_record import TextRecord
from cleangpt.data.turns import first_request
from cleangpt.errors import TextError, TextTooShortError, UsageError
from cleangpt.tokenizers import BaseTokenizer

LONGEST_BLOCK = 256
PROMPTS = 5
"""How many prompts are continued unless somebody says otherwise."""
_PROMPT_TOKENS = 16


@dataclass(frozen=True)
class TextChoice:
    """Which text to measure on, and how to cut it.

    `source`, `column` and `split` are those of `cleangpt.data.read_source`; conversations are measured on their
    answers. `block_size` None means the longest blocks that the models and the text allow, up to 256. `validation` uses
    only this share at the end of the text; the model's record says whether its training held that out. `max_batches`
    limits the number of batches. `parse_special_tokens` has to be what the training had. `n_prompts` is the number of
    prompts.
    """

    source: str
    column: str = "text"
    split: str = "train"
    max_samples: int | None = None
    block_size: int | None = None
    batch_size: int = 8
    validation: float | None = None
    max_batches: int | None = None
    parse_special_tokens: bool = False
    n_prompts: int = PROMPTS


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
        TextError: the source is unknown, empty, or too short, or the share lies outside 0 and 1.
        UsageError: the model was trained on a part of the share that is asked for, or has fewer positions than the
            blocks.
        TokenizerError: the source holds conversations that the tokenizer's chat template cannot write.
    """
    if choice.validation is not None and not 0 < choice.validation < 1:
        raise TextError(f"the validation fraction is {choice.validation}; it lies between 0 and 1, both excluded")
    if choice.block_size is not None and context is not None and choice.block_size > context:
        raise UsageError(
            f"the model has {context} positions, and blocks of {choice.block_size} are asked for; give a smaller "
            "--block-size, or leave it out"
        )
    found = read_source(choice.source, column=choice.column, split=choice.split, max_samples=choice.max_samples)
    if isinstance(found, Conversations):
        return _conversations(choice, found, tokenizer, context, record)
    return _running_text(choice, found, tokenizer, context, record)


def _running_text(
    choice: TextChoice, texts: list[str], tokenizer: BaseTokenizer, context: int | None, record: TextRecord | None
) -> EvaluationText:
    ids_N = joined_ids(texts, tokenizer, parse_special_tokens=choice.parse_special_tokens)
    n_bytes = sum(len(text.encode()) for text in texts)
    if not n_bytes or len(ids_N) < 4:
        raise TextTooShortError(f"{choice.source} has {len(ids_N)} tokens; at least 4 are needed to measure anything")
    known = _known(record, TextRecord.of(choice.source, ids_N, 0))
    block = choice.block_size or min(LONGEST_BLOCK, context or LONGEST_BLOCK, len(ids_N) // 2)
    if choice.validation is not None:
        if known is None:
            _, held_out = TokenBlocks(ids_N, BlockSettings(block, choice.batch_size)).split(choice.validation)
            ids_N = held_out.ids_N
        else:
            ids_N = ids_N[len(ids_N) - _n_held_out(choice.validation, known, block) :]
        block = choice.block_size or min(block, len(ids_N) // 2)
        n_bytes = len(tokenizer.decode([each for each in ids_N.tolist() if each != tokenizer.end_id]).encode())
    blocks = TokenBlocks(ids_N, BlockSettings(block, choice.batch_size), shuffled=False)
    longest = min(_PROMPT_TOKENS, block // 2)
    starts = [number * len(ids_N) // choice.n_prompts for number in range(choice.n_prompts)]
    prompts = tuple(tokenizer.decode(ids_N[start : start + longest].tolist()) for start in starts)
    return EvaluationText(
        choice.source,
        blocks.batches(0)[: choice.max_batches],
        len(ids_N) / max(1, n_bytes),
        prompts,
        _note(choice, record, known),
    )


def _conversations(
    choice: TextChoice,
    found: Conversations,
    tokenizer: BaseTokenizer,
    context: int | None,
    record: TextRecord | None,
) -> EvaluationText:
    known = _known(record, TextRecord.of_conversations(choice.source, found, 0))
    if choice.validation is not None:
        if known is None:
            _, found = found.split(choice.validation)
        else:
            found = found.last(_n_held_out(choice.validation, known, 1))
    longest = min(choice.block_size or LONGEST_BLOCK, context or LONGEST_BLOCK)
    rows = conversation_rows(
        found, tokenizer.fast, batch_tokens=choice.batch_size * longest, context=longest, seed=0, shuffled=False
    )
    learned = sum(sum(row.learned) for batch in rows.rows(0) for row in batch)
    n_bytes = sum(
        len(each.content.encode()) for item in found.items for each in item.wordings[0] if each.role == ASSISTANT
    )
    n_items = len(found.items)
    n_prompts = min(n_items, choice.n_prompts)
    chosen = [found.items[number * n_items // n_prompts] for number in range(n_prompts)]
    return EvaluationText(
        choice.source,
        rows.batches(0)[: choice.max_batches],
        learned / max(1, n_bytes),
        tuple(first_request(tokenizer.fast, each.wordings[0]) for each in chosen),
        _note(choice, record, known),
    )


def _known(record: TextRecord | None, here: TextRecord) -> TextRecord | None:
    """The record, if it is of this text."""
    return record if record is not None and record.is_same_text(here) else None


def _n_held_out(share: float, known: TextRecord, least: int) -> int:
    """How much of the end of a text is measured: the share asked for, at least `least`, and all of it held out.

    Raises:
        UsageError: the model was trained on a part of the share.
    """
    wanted = round(share * known.total)
    if wanted > known.held_out:
        learned = f"all but the last {known.held_out / known.total:.2%}" if known.held_out else "all"
        raise UsageError(
            f"the model was trained on {learned} of this text, and --validation asks for {share:.2%}; "
            "ask for what was held out, or leave --validation out to measure on all of it"
        )
    return min(known.held_out, max(wanted, least))


def _note(choice: TextChoice, record: TextRecord | None, known: TextRecord | None) -> str | None:
    """What has to be said about a text that the model may have been trained on."""
    if known is not None and choice.validation is None:
        last = f"the last {known.held_out} {known.unit} were held out"
        held_out = last if known.held_out else "nothing was held out"
        return f"the model was trained on this text: {held_out}"
    if known is None and choice.validation is not None:
        why = "it does not say what it was trained on" if record is None else f"it was trained on {record.source}"
        return f"whether the model has seen this share is not known: {why}"
    return None
