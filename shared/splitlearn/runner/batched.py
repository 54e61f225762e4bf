"""Runs the rows of all sessions of a step in one forward.

Shapes: T rows of all sessions, S sessions, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch

from splitlearn.attention.backend import AttentionBackend, KVCache, StepAttention
from splitlearn.attention.by_session import BySession, SessionCache
from splitlearn.attention.interface_probe import probe
from splitlearn.attention.kv_layout import KVLayout
from splitlearn.attention.page_budget import PageBudget
from splitlearn.attention.ragged import NAME, RaggedCache, ragged_step
from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.hf.attention_interface import AttentionSwitch, supports_attention_interface
from splitlearn.model import traits
from splitlearn.model.cache import PartCache
from splitlearn.model.part import Part
from splitlearn.runner.interface import Runner, SequenceInput, cache_of_one_row

MakeBackend = Callable[[KVLayout, int | None], AttentionBackend]
"""Makes a backend for a layout and so many bytes; None for no bound."""


class BatchedRunner(Runner[KVCache]):
    """All rows in one forward, attention by a backend.

    Args:
        make_backend: called once, when the layout of keys and values is known.
    """

    is_batched = True

    def __init__(self, part: Part, kv_bytes: int | None, make_backend: MakeBackend) -> None:
        super().__init__(part)
        self._by_session: BySession | None = None
        tensors = [tensor for layer in cache_of_one_row(part).layers for tensor in (layer.keys, layer.values)]
        shapes = tuple((tensor.shape[1], tensor.shape[3]) for tensor in tensors)
        self._layout = KVLayout(shapes, tensors[0].dtype, tensors[0].device)
        self._backend = make_backend(self._layout, kv_bytes)
        self._cache = RaggedCache()
        self._is_attention_shared = self._can_share_attention()
        self._attention = AttentionSwitch(self.part.modules())
        if not self._is_attention_shared or (self.part.spec.begin and not self.part.takes_positions):
            self._by_session = BySession(self.part, self._sample_call, self._is_attention_shared)
            # the first step finds out which projections can wait for all sessions
            self._sample_steps()
            return
        self.fusion = self._backend.fuse(self.part, self._sample_steps)
        self._backend.prepare_decode(self._decode, self.part.context_length)

    def _can_share_attention(self) -> bool:
        """Whether one attention call may take the rows of several sessions."""
        part = self.part
        if traits.attends_otherwise(part.config):
            return False
        if part.takes_positions and supports_attention_interface(part.model):
            return True
        found = probe(part, self._sample_call)
        return found.uses_interface and (part.takes_positions or not found.is_told_positions)

    @torch.inference_mode()
    def _sample_call(self, cache: PartCache) -> None:
        self.part(self._random_rows(2).to(self._layout.device), cache.n_rows, cache)

    def _sample_steps(self) -> list[torch.Tensor]:
        """Outputs of steps in which a session begins, goes on while another begins, and both bring one row more.

        Run at the beginning and at the end of the context: some models scale rows by their position.
        """
        n_rows, found = 7, []
        for offset in (0, max(0, (self.part.context_length or 0) - n_rows)):
            first, second = self.new_kv(n_rows), self.new_kv(n_rows)
            found += self._run([SequenceInput(first, 0, self._random_rows(5))], offset)
            found += self._run(
                [SequenceInput(first, 5, self._random_rows(1)), SequenceInput(second, 0, self._random_rows(3))], offset
            )
            found += self._run(
                [SequenceInput(first, 6, self._random_rows(1)), SequenceInput(second, 3, self._random_rows(1))], offset
            )
            for kv in (first, second):
                self.release(kv)
        return found

    def _random_rows(self, count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(count)
        if self.part.spec.begin:
            vocabulary = self.part.config.get_text_config(decoder=True).vocab_size
            return torch.randint(vocabulary, (count,), generator=generator)
        return torch.randn(count, self.part.hidden_size, generator=generator).to(self.part.dtype)

    @property
    def row_bytes(self) -> int:
        return self._backend.row_bytes

    def page_budget(self, page_size: int) -> PageBudget:
        return self._backend.page_budget(page_size)

    def new_kv(self, max_length: int | None) -> KVCache:
        kv: KVCache = self._backend.new_kv(max_length)
        return kv

    def release(self, kv: KVCache, n_rows: int = 0) -> None:
        self._backend.release(kv, n_rows)

    def truncate(self, kv: KVCache, position: int) -> KVCache:
        kv.truncate(position)
        return kv

    @property
    def can_share_rows(self) -> bool:
        return True

    def copy_prefix(self, kv: KVCache, cached: KVCache, n_rows: int) -> KVCache:
        kv.copy_from(cached, n_rows)
        return kv

    def run(self, inputs: Sequence[SequenceInput[KVCache]]) -> list[torch.Tensor]:
        return self._run(inputs)

    @torch.inference_mode()
    def _run(self, inputs: Sequence[SequenceInput[KVCache]], position_offset: int = 0) -> list[torch.Tensor]:
        """As `run`; the model is given positions that are `position_offset` more than those in the cache."""
        if self._by_session is not None:
            return self._run_by_session(inputs, self._by_session)
        sessions = [each.slice for each in inputs]
        rows = inputs[0].rows if len(inputs) == 1 else torch.cat([each.rows for each in inputs])
        if not any(each.wanted == "hidden" for each in inputs):
            wanted = _wanted_rows(inputs) if self.part.spec.end else None
            found = self._backend.run_step(rows, sessions, wanted, position_offset, _n_likeliest(inputs))
            if found is not None:
                return self._shares(found, inputs)
        rows_1T = rows.to(self._layout.device)[None]
        options: dict[str, Any] = {"past_key_values": self._cache, "use_cache": True}
        if self.part.takes_positions:
            positions = [i + position_offset for each in sessions for i in range(each.start, each.end)]
            options["position_ids"] = torch.tensor([positions], device=rows_1T.device)
        with self._attending(sessions):
            return self._outputs(rows_1T, inputs, options)

    @contextmanager
    def _attending(self, sessions: Sequence[SequenceSlice[KVCache]]) -> Iterator[None]:
        """Inside, one attention call takes the rows of all sessions."""
        step = self._backend.begin_step(sessions)
        self._cache.begin(step, [each.start for each in sessions], [each.length for each in sessions])
        with ragged_step(self._cache), self._attention.to(NAME):
            yield

    def _run_by_session(self, inputs: Sequence[SequenceInput[KVCache]], by_session: BySession) -> list[torch.Tensor]:
        sessions = [each.slice for each in inputs]
        rows = [each.rows.to(self._layout.device) for each in inputs]
        options: dict[str, Any] = {"past_key_values": self._cache, "use_cache": True}
        if self._is_attention_shared:
            counting = [SessionCache(None, each.start, each.length) for each in sessions]
            with by_session.step(rows, counting) as rows_1TD, self._attending(sessions):
                return self._outputs(rows_1TD, inputs, options)
        caches = [SessionCache(self._backend.begin_step([each]), each.start, each.length) for each in sessions]
        if len(inputs) == 1:
            return self._outputs(rows[0][None], inputs, {**options, "past_key_values": caches[0]})
        with by_session.step(rows, caches) as rows_1TD:
            # the layers have what each session needs of its cache and its positions; the decoder makes no use of these
            if self.part.takes_positions:
                options["position_ids"] = torch.zeros(1, rows_1TD.shape[1], dtype=torch.long, device=rows_1TD.device)
            return self._outputs(rows_1TD, inputs, options)

    def _outputs(
        self, rows_1T: torch.Tensor, inputs: Sequence[SequenceInput[KVCache]], options: dict[str, Any]
    ) -> list[torch.Tensor]:
        """What each session's rows become: [t, D], or what is wanted of a part that ends the model."""
        if not self.part.spec.end:
            return self._shares(self.part.run(rows_1T, **options)[0], inputs)
        kept = torch.tensor(_wanted_rows(inputs), dtype=torch.long, device=rows_1T.device)
        if self.part.keeps_last_rows:
            options = {**options, "logits_to_keep": kept}
        if any(each.wanted == "hidden" for each in inputs):
            output, hidden_1TD = self.part.run_to_hidden(rows_1T, **options)
        else:
            output, hidden_1TD = self.part.run(rows_1T, **options), None
        outputs = self._shares(output.logits[0] if self.part.keeps_last_rows else output.logits[0, kept], inputs)
        if hidden_1TD is not None:
            shares = torch.split(hidden_1TD[0], [each.rows.shape[0] for each in inputs])
            found = zip(inputs, shares, outputs, strict=True)
            return [rows_tD if each.wanted == "hidden" else output for each, rows_tD, output in found]
        return outputs

    def _shares(self, found: torch.Tensor, inputs: Sequence[SequenceInput[KVCache]]) -> list[torch.Tensor]:
        """Each session's of hidden states [T, D], or of the wanted logits."""
        if not self.part.spec.end:
            return list(torch.split(found, [each.rows.shape[0] for each in inputs]))
        shares = zip(inputs, torch.split(found, [_n_wanted(each) for each in inputs]), strict=True)
        return [logits_tV[-1] if each.wanted == "last" else logits_tV for each, logits_tV in shares]

    def _decode(self, rows: torch.Tensor, positions_1S: torch.Tensor, attention: StepAttention) -> torch.Tensor:
        """One row of each session: hidden states [S, D], or logits [S, V]."""
        self._cache.begin(attention, [], [1] * rows.shape[0])
        with ragged_step(self._cache), self._attention.to(NAME):
            told = {"position_ids": positions_1S} if self.part.takes_positions else {}
            output = self.part.run(rows[None], past_key_values=self._cache, use_cache=True, **told)
        return torch.as_tensor((output.logits if self.part.spec.end else output)[0])


def _n_wanted(each: SequenceInput[KVCache]) -> int:
    """Rows whose logits are wanted."""
    return {"none": 0, "last": 1, "all": each.rows.shape[0], "hidden": 0}[each.wanted]


def _wanted_rows(inputs: Sequence[SequenceInput[KVCache]]) -> list[int]:
    """The rows of the step whose logits are wanted."""
    ends = accumulate(each.rows.shape[0] for each in inputs)
    return [row for end, each in zip(ends, inputs, strict=True) for row in range(end - _n_wanted(each), end)]


def _n_likeliest(inputs: Sequence[SequenceInput[KVCache]]) -> int | None:
    """How many of each row's logits are needed at most; None: all of some row."""
    needed = [each.n_likeliest if each.wanted == "last" else None for each in inputs if each.wanted != "none"]
    known = [count for count in needed if count is not None]
    return max(known) if known and len(known) == len(needed) else None
