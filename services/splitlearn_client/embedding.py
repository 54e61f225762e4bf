"""Embeddings: the hidden states behind the whole model's final norm, pooled; one session per text.

Shapes: D hidden size.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import torch

from splitlearn_client.choices import merged
from splitlearn_client.errors import BadRequest, PromptTooLong
from splitlearn_client.pooling import Pooler, needs_all_rows, shortened
from splitlearn_client.pooling_config import PoolingConfig
from splitlearn_client.report import Report
from splitlearn_client.sessions import Sessions

# of one request; the others begin as these end, so that one request takes few sessions
AT_ONCE: Final = 8


@dataclass(frozen=True)
class EmbeddingInput:
    """One text. The first `n_prompt` ids are those of the model's own prompt, and `param` names it in errors."""

    ids: Sequence[int]
    param: str
    n_prompt: int = 0


class Embedder:
    """Embeds for any number of concurrent requests, by one pooling."""

    def __init__(self, sessions: Sessions, pooling: PoolingConfig) -> None:
        self._sessions = sessions
        self.pooling = pooling

    def check(self, inputs: Sequence[EmbeddingInput], dimensions: int | None) -> None:
        """Checks everything before any of it runs.

        Raises:
            RequestError: a text is too long, the vectors have fewer numbers, or no trunk is ready.
        """
        parts = self._sessions.local_parts
        if dimensions is not None and dimensions > parts.embedding_size:
            raise BadRequest(f"this model's embeddings have {parts.embedding_size} numbers at most", "dimensions")
        context = parts.bottom.part.context_length
        for each in inputs:
            if context is not None and len(each.ids) > context:
                raise PromptTooLong(
                    f"this input has {len(each.ids)} tokens, but this model's context is {context} tokens; shorten it",
                    each.param,
                )

    async def embed(
        self, inputs: Sequence[EmbeddingInput], dimensions: int | None, tenant: str, reports: list[Report]
    ) -> AsyncGenerator[tuple[int, torch.Tensor]]:
        """Yields the number of an input and its vector, as they are done: some run at once.

        Args:
            dimensions: how many of its first numbers a vector has; None for all.
            tenant: the name of whose request it is.
            reports: the request's; those of the inputs are added as these begin.

        Raises:
            RequestError: no trunk is ready, or it fails.
        """
        whole = reports[0]
        streams = [self._vectors(each, dimensions, tenant, reports) for each in inputs]
        async with aclosing(merged(streams, AT_ONCE)) as vectors:
            async for number, vector in vectors:
                whole.first_token = whole.last_token = time.perf_counter()
                yield number, vector

    async def _vectors(
        self, wanted: EmbeddingInput, dimensions: int | None, tenant: str, reports: list[Report]
    ) -> AsyncGenerator[torch.Tensor]:
        """The one vector of an input."""
        report = Report(context=reports[0].context, prompt_tokens=len(wanted.ids))
        whole, is_first = reports[0], len(reports) == 1
        if is_first:
            # so that logs tell a session that there is
            report.session = whole.session
        reports.append(report)
        ids, mode = list(wanted.ids), self.pooling.mode
        needs_all = needs_all_rows(mode)
        # of a prompt that swallows the text the last row still counts
        pooler = Pooler(mode, min(wanted.n_prompt, len(ids) - 1))
        async with self._sessions.opened(ids, len(ids), tenant, report, reuses=not needs_all) as session:
            await session.read(ids, pooler)
            self._sessions.observe(report, session.stream)
            if is_first:
                whole.queue_seconds = report.queue_seconds
            # before anything is cached: rows that are broken are not
            vector_D = pooler.vector()
            await session.close_and_cache(() if needs_all else ids)
        yield shortened(vector_D, dimensions, is_normalized=self.pooling.is_normalized)
