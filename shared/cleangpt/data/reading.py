"""What a training reads of a source, what it holds out, and the record of both."""

from dataclasses import dataclass

from cleangpt.data.batches import EpochBatches
from cleangpt.data.blocks import BlockSettings, TokenBlocks, joined_ids
from cleangpt.data.conversations import ConversationRows, conversation_rows
from cleangpt.data.messages import Conversations
from cleangpt.data.text_record import DEFAULT_HELD_OUT, TextRecord
from cleangpt.tokenizers.base import BaseTokenizer


@dataclass(frozen=True)
class Cutting:
    """How a source is cut into batches.

    Running text: `batch_size` blocks of `block_size` ids. Conversations: rows of at most `context` ids, and at most
    `batch_tokens` of them in a batch. `validation` is the share at the end that is held out; None means 0.05, or
    nothing of conversations that are made to be memorized. `seed` decides the order.
    """

    block_size: int
    batch_size: int
    context: int
    batch_tokens: int
    seed: int
    validation: float | None = None
    parse_special_tokens: bool = False

    def share(self, found: list[str] | Conversations) -> float:
        """The share of this source to hold out."""
        if self.validation is not None:
            return self.validation
        return 0.0 if isinstance(found, Conversations) and found.is_memorized else DEFAULT_HELD_OUT


@dataclass(frozen=True, eq=False)
class Reading:
    """The batches to learn, those held out if any, and the record of what was held out."""

    data: EpochBatches
    validation: EpochBatches | None
    record: TextRecord


def reading_of(found: list[str] | Conversations, source: str, tokenizer: BaseTokenizer, cutting: Cutting) -> Reading:
    """Cuts a source that `read_source` read. `source` is its name in the record. Raises TextError, TokenizerError."""
    if isinstance(found, Conversations):
        return _of_conversations(found, source, tokenizer, cutting)
    return _of_text(found, source, tokenizer, cutting)


def _of_text(texts: list[str], source: str, tokenizer: BaseTokenizer, cutting: Cutting) -> Reading:
    ids_N = joined_ids(texts, tokenizer, parse_special_tokens=cutting.parse_special_tokens)
    data = TokenBlocks(ids_N, BlockSettings(cutting.block_size, cutting.batch_size, cutting.seed))
    validation = None
    if share := cutting.share(texts):
        data, validation = data.split(share)
    return Reading(data, validation, TextRecord.of(source, ids_N, len(ids_N) - len(data.ids_N)))


def _of_conversations(found: Conversations, source: str, tokenizer: BaseTokenizer, cutting: Cutting) -> Reading:
    learned, held_out = found, None
    if share := cutting.share(found):
        learned, held_out = found.split(share)

    def rows(part: Conversations, *, shuffled: bool) -> ConversationRows:
        return conversation_rows(
            part,
            tokenizer.fast,
            batch_tokens=cutting.batch_tokens,
            context=cutting.context,
            seed=cutting.seed,
            shuffled=shuffled,
        )

    data = rows(learned, shuffled=True)
    validation = None if held_out is None else rows(held_out, shuffled=False)
    record = TextRecord.of_conversations(source, found, len(found.items) - len(learned.items))
    return Reading(data, validation, record)
