"""What sizes of frames tell: which of some texts is being written, by the traces that each of them leaves.

No model runs: an answer is taken to be the first one in the text, up to its end token, and guesses are those of prompt
lookup, all of them sent but end tokens and what is behind those. The prompt's own frames give the answer's first token,
and none is sent behind the last.
The observer has seen every text before, as in arXiv 2411.01076.
"""

import asyncio
from collections import Counter
from collections.abc import Hashable, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from splitlearn_client.speculation.prompt_lookup import PromptLookup
from splitlearn_privacy.scoring import Share
from splitlearn_privacy.texts import Document


class Frames(StrEnum):
    """How an answer's tokens are sent for."""

    PLAIN = "one token each"
    GUESSES = "with guesses"
    PADDED = "with guesses, padded"


class Observer(StrEnum):
    """Who sees the frames."""

    NETWORK = "network"
    """Sizes of messages alone, as TLS leaves them."""
    WORKER = "worker"
    """Also each frame's position, which says how many guesses were right."""


@dataclass(frozen=True)
class Trace:
    """How often an observer names the text, of `n_texts`: the mean of one over the number of texts with its trace."""

    n_texts: int
    frames: Frames
    observer: Observer
    named: Share


@dataclass(frozen=True)
class Step:
    """A frame that asks for a next token: how many guesses it has, and how many of them are right."""

    n_guesses: int
    n_right: int


def traces(found: Sequence[Document], most_guesses: int, ends: Set[int]) -> list[Trace]:
    """What each observer makes of each way to send the first answers of conversations; nothing where there are none.

    Args:
        most_guesses: guesses in a frame, at most.
        ends: tokens that end an answer.
    """
    dialogues = [each for each in found if each.n_asked < len(each.ids)]
    if not any(each.n_asked for each in dialogues):
        return []
    asked = [(each.n_asked, asyncio.run(steps(each, most_guesses, ends))) for each in dialogues]
    return [
        Trace(len(asked), frames, observer, _named([(n, _trace(each, frames, observer)) for n, each in asked]))
        for frames in Frames
        for observer in Observer
    ]


async def steps(dialogue: Document, most: int, ends: Set[int]) -> list[Step]:
    """The frames behind the prompt's that send for the first answer with guesses, as `traces`."""
    answer = dialogue.first_answer
    n_said = next((n for n, token in enumerate(answer, start=1) if token in ends), len(answer))
    ids = dialogue.ids[: dialogue.n_asked + n_said]
    drafter, position, found = PromptLookup(), dialogue.n_asked + 1, list[Step]()
    while position < len(ids):
        guesses: list[int] = []
        async with aclosing(drafter.guesses(ids[:position])) as coming:
            async for guess in coming:
                if guess.token in ends or len(guesses) == most:
                    break
                guesses.append(guess.token)
        # the last token ends the answer, and runs in no frame
        pairs = list(zip(guesses, ids[position:-1], strict=False))
        n_right = next((n for n, (guess, right) in enumerate(pairs) if guess != right), len(pairs))
        found.append(Step(len(guesses), n_right))
        position += n_right + 1
    return found


def _trace(found: Sequence[Step], frames: Frames, observer: Observer) -> Hashable:
    if frames is Frames.PLAIN:
        return sum(each.n_right + 1 for each in found)
    n_guesses = () if frames is Frames.PADDED else tuple(each.n_guesses for each in found)
    n_right = () if observer is Observer.NETWORK else tuple(each.n_right for each in found)
    return len(found), n_guesses, n_right


def _named(seen: Sequence[Hashable]) -> Share:
    count = Counter(seen)
    return Share.over_texts(np.array([1 / count[each] for each in seen]))
