"""Turns conversations into padded batches of token ids. Seeded: the batches are the same every time.

An epoch has every conversation once, in one of its wordings; the next epoch takes the next wording.
Where several may share a row, they follow each other in it, so that the model learns to answer the latest
question regardless of earlier ones.

Shapes: B rows, T positions.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random

import torch
from transformers import PreTrainedTokenizerFast

from cleangpt.data.batches import TEXT, Batch, LazyBatches
from cleangpt.data.messages import Conversations
from cleangpt.data.turns import Dialogue, Turn, dialogues_of


@dataclass(frozen=True)
class Row:
    """One sequence; `learned[i]` says whether the model has to predict `ids[i]`."""

    ids: tuple[int, ...]
    learned: tuple[bool, ...]


@dataclass(frozen=True)
class ConversationRows:
    """The batches of every epoch over `dialogues`, each given in one or more wordings.

    A batch holds at most `batch_tokens` ids, padding included, but at least one row. As many dialogues follow each
    other in a row as is drawn from `per_row`, but no more than fit into `context` ids. A longer dialogue is cut into
    several rows, each of which starts with the last id of the one before; rows without a learned id are left out.
    Equal seeds produce equal batches. Not shuffled, for measuring: every epoch is the first one.
    """

    dialogues: tuple[tuple[Dialogue, ...], ...]
    batch_tokens: int
    context: int
    seed: int
    per_row: tuple[int, ...] = (1,)
    shuffled: bool = True

    @property
    def described(self) -> dict[str, str]:
        """A digest of the dialogues, and the settings by name: what a checkpoint says of its data."""
        return {
            TEXT: hashlib.sha256(str(self.dialogues).encode()).hexdigest(),
            "batch_tokens": str(self.batch_tokens),
            "ids per row": str(self.context),
            "dialogues per row": str(self.per_row),
            "seed of the order": str(self.seed),
            "shuffled": str(self.shuffled),
        }

    def batches(self, epoch: int) -> LazyBatches[list[Row]]:
        """The batches of one epoch, in training order, padded with id 0."""
        return LazyBatches(self.rows(epoch), padded)

    def rows(self, epoch: int) -> list[list[Row]]:
        """The rows of each batch of one epoch, without padding."""
        epoch = epoch if self.shuffled else 0
        random = Random(f"{self.seed} {epoch}")
        chosen = [wordings[(epoch + offset) % len(wordings)] for offset, wordings in enumerate(self.dialogues)]
        random.shuffle(chosen)
        rows = [piece for row in self._rows(chosen, random) for piece in pieces(row, self.context)]
        # a batch has rows of similar length, to save padding; the sort keeps equal lengths in random order
        rows.sort(key=lambda row: len(row.ids))
        batches = list(self._cut_into_batches(rows))
        random.shuffle(batches)
        return batches

    def _rows(self, dialogues: Sequence[Dialogue], random: Random) -> Iterator[Row]:
        waiting: list[Dialogue] = []
        wanted = random.choice(self.per_row)
        for dialogue in dialogues:
            length = sum(len(each.prompt) + len(each.answer) for each in chain(*waiting, dialogue))
            if waiting and (len(waiting) == wanted or length > self.context):
                yield as_row(list(chain(*waiting)))
                waiting, wanted = [], random.choice(self.per_row)
            waiting.append(dialogue)
        if waiting:
            yield as_row(list(chain(*waiting)))

    def _cut_into_batches(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        batch: list[Row] = []
        for row in rows:
            # rows are sorted by length, so the newest one sets the padded width
            if batch and len(row.ids) * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch


def conversation_rows(
    found: Conversations,
    tokenizer: PreTrainedTokenizerFast,
    *,
    batch_tokens: int,
    context: int,
    seed: int,
    shuffled: bool = True,
) -> ConversationRows:
    """The conversations in every wording, as chats of `tokenizer`. Raises TokenizerError if its template cannot."""
    dialogues: list[tuple[Dialogue, ...]] = []
    for each in found.items:
        # where answers are dialogues of their own, every wording has as many of them
        dialogues += zip(*(dialogues_of(tokenizer, wording) for wording in each.wordings), strict=True)
    return ConversationRows(tuple(dialogues), batch_tokens, context, seed, found.per_row, shuffled)


def as_row(turns: Sequence[Turn]) -> Row:
    """Concatenates the turns into one row; only answers are learned."""
    ids: list[int] = []
    learned: list[bool] = []
    for turn in turns:
        ids += turn.prompt + turn.answer
        learned += [False] * len(turn.prompt) + [True] * len(turn.answer)
    return Row(tuple(ids), tuple(learned))


def pieces(row: Row, context: int) -> Iterator[Row]:
    """The row in pieces of at most `context` ids, with each learned id once; those in which nothing is learned go."""
    for start in range(0, max(1, len(row.ids) - 1), max(1, context - 1)):
        ids, learned = row.ids[start : start + context], row.learned[start : start + context]
        # nothing is before the first id, which only the piece before can predict
        learned = (learned[0] and start == 0, *learned[1:])
        if any(learned):
            yield Row(ids, learned)


def padded(rows: Sequence[Row]) -> Batch:
    """The rows as one batch. Padding is on the right, where a causal model's earlier positions cannot see it."""
    width = max(len(row.ids) for row in rows)
    ids_BT = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows])
    learned_BT = torch.tensor([[*row.learned, *[False] * (width - len(row.learned))] for row in rows])
    return Batch(ids_BT, learned_BT)
