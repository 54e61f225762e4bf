"""Turns questions and answers into padded batches of token ids. Seeded: the batches are the same every time.

An epoch has every question once, in one of its phrasings; the next epoch takes the next phrasing.
Some questions are alone in a row, others follow each other as the turns of a conversation, so that
the model learns to answer the latest question regardless of earlier ones.

Shapes: B rows, T positions.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from transformers import PreTrainedTokenizerFast

from cleangpt.data.batches import TEXT, Batch, LazyBatches
from cleangpt.data.stdlib_questions import Question
from cleangpt.errors import TokenizerError
from cleangpt.tokenizers.chat import answer_ids, prompt_ids

# turns per row, drawn uniformly: nearly half of the questions are alone in a row or come first
TURNS_PER_ROW = (1, 1, 1, 1, 1, 1, 2, 4, 8)


@dataclass(frozen=True)
class Turn:
    """One question and its answer as token ids; `answer` includes the end marker."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One sequence; `learned[i]` says whether the model has to predict `ids[i]`."""

    ids: tuple[int, ...]
    learned: tuple[bool, ...]


@dataclass(frozen=True)
class ConversationRows:
    """The batches of every epoch over `questions`, each given in one or more phrasings.

    A batch holds at most `batch_tokens` ids, padding included, but at least one row; no conversation is
    extended beyond `context` ids. Equal seeds produce equal batches.
    """

    questions: tuple[tuple[Turn, ...], ...]
    batch_tokens: int
    context: int
    seed: int

    @property
    def described(self) -> dict[str, str]:
        """A digest of the questions, and the settings by name: what a checkpoint says of its data."""
        return {
            TEXT: hashlib.sha256(str(self.questions).encode()).hexdigest(),
            "batch_tokens": str(self.batch_tokens),
            "ids per row": str(self.context),
            "seed of the order": str(self.seed),
        }

    def batches(self, epoch: int) -> LazyBatches[list[Row]]:
        """The batches of one epoch, in training order, padded with id 0."""
        return LazyBatches(self.rows(epoch), padded)

    def rows(self, epoch: int) -> list[list[Row]]:
        """The rows of each batch of one epoch, without padding."""
        random = Random(f"{self.seed} {epoch}")
        turns = [phrasings[(epoch + offset) % len(phrasings)] for offset, phrasings in enumerate(self.questions)]
        random.shuffle(turns)
        rows = list(self._rows(turns, random))
        # a batch has rows of similar length, to save padding; the sort keeps equal lengths in random order
        rows.sort(key=lambda row: len(row.ids))
        batches = list(self._cut_into_batches(rows))
        random.shuffle(batches)
        return batches

    def _rows(self, turns: Sequence[Turn], random: Random) -> Iterator[Row]:
        waiting: list[Turn] = []
        wanted = random.choice(TURNS_PER_ROW)
        for turn in turns:
            length = sum(len(each.prompt) + len(each.answer) for each in (*waiting, turn))
            if waiting and (len(waiting) == wanted or length > self.context):
                yield as_row(waiting)
                waiting, wanted = [], random.choice(TURNS_PER_ROW)
            waiting.append(turn)
        if waiting:
            yield as_row(waiting)

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
    questions: Iterable[Question], tokenizer: PreTrainedTokenizerFast, *, batch_tokens: int, context: int, seed: int
) -> ConversationRows:
    """The questions in every phrasing, as chats of `tokenizer`. Raises TokenizerError if it has no chat template."""
    if not tokenizer.chat_template:
        raise TokenizerError("conversations need a tokenizer with a chat template; create it with chat=True")
    turns = tuple(
        tuple(
            Turn(tuple(prompt_ids(tokenizer, prompt)), tuple(answer_ids(tokenizer, question.answer)))
            for prompt in question.phrasings
        )
        for question in questions
    )
    return ConversationRows(turns, batch_tokens, context, seed)


def as_row(turns: Sequence[Turn]) -> Row:
    """Concatenates the turns into one row; only answers are learned."""
    ids: list[int] = []
    learned: list[bool] = []
    for turn in turns:
        ids += turn.prompt + turn.answer
        learned += [False] * len(turn.prompt) + [True] * len(turn.answer)
    return Row(tuple(ids), tuple(learned))


def padded(rows: Sequence[Row]) -> Batch:
    """The rows as one batch. Padding is on the right, where a causal model's earlier positions cannot see it."""
    width = max(len(row.ids) for row in rows)
    ids_BT = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows])
    learned_BT = torch.tensor([[*row.learned, *[False] * (width - len(row.learned))] for row in rows])
    return Batch(ids_BT, learned_BT)
