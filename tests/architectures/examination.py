"""Cuts one tiny model of an architecture at two points and compares it with the whole model.

The whole model is asked without a cache, from scratch for every logit: the plainest thing to be equal to.
"""

import asyncio
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from architectures.small_configs import N_LAYERS, VOCABULARY, small_config
from splitlearn.build import build_engine
from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import DeviceThread
from splitlearn.errors import ContextExceeded, SplitError
from splitlearn.model.layout import ModelLayout, build_on_meta, inspect_model
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from splitlearn.model.traits import row_width, takes_one_row_at_a_time
from splitlearn.runner.select import why_not_batched
from support.sessions import Chain, Together, load_parts

PLAN = SplitPlan(2, 4, N_LAYERS)
PARTS = ("bottom", "trunk", "top")
TOLERANCE = 1e-4
CHUNKS = (17, 1, 9, 1, 1, 5)
NEW_TOKENS = 8
# Rows of three sessions in the same steps: a prompt beside prompts, chunks beside next tokens, and one that comes late.
CHUNKS_OF_MANY = ((17, 1, 9, 1, 1, 5), (3, 12, 1, 1, 20, 2), (0, 1, 1, 23, 1, 8))
NEW_TOKENS_OF_MANY = 4
# Rows that are more than any size in the small configs, for models whose context has no end.
NO_END = 300

_KINDS = {
    "sliding_attention": "sliding window",
    "chunked_attention": "chunked attention",
    "indexed_attention": "sparse attention",
    "minimax_m3_sparse": "sparse attention",
    "compressed_sparse_attention": "compressed attention",
    "heavily_compressed_attention": "compressed attention",
    "linear_attention": "recurrent",
    "conv": "convolution",
    "hybrid": "recurrent",
    "hybrid_sliding": "recurrent",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one architecture: its verdict is "equal", "refused" or "differs".

    `batches` is empty where rows of several sessions run in one step and come out equal, and else says why they
    are run one session after the other, and in which parts if not in all.
    """

    verdict: str
    reason: str = ""
    can_truncate: bool = False
    batches: str = ""
    traits: tuple[str, ...] = ()


def examine(model_type: str, folder: Path) -> Outcome:
    """Makes a tiny model in `folder`, converts it, loads three parts and compares.

    Raises:
        Exception: whatever went wrong where nothing should.
    """
    config = small_config(model_type)
    config.save_pretrained(folder / "checkpoint")
    try:
        layout = inspect_model(build_on_meta(config))
    except SplitError as error:
        return Outcome("refused", str(error))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    _make_weights_matter(model)
    model.save_pretrained(folder / "checkpoint")
    # a model that is the half of a larger one has saved the half of the config
    config.save_pretrained(folder / "checkpoint")
    prepare(str(folder / "checkpoint")).write(folder / "parts")
    parts = load_parts(folder / "parts", PLAN)
    can_truncate = all(part.can_truncate for part in parts)
    complaint = _compare(model, parts) or _compare_at_the_end(model, parts) or _check_rows(folder / "parts")
    if not complaint and can_truncate:
        complaint = _compare_after_truncation(model, parts)
    sequential = {
        name: why for name, part in zip(PARTS, parts, strict=True) if (why := why_not_batched(part)) is not None
    }
    if not complaint and len(sequential) < len(parts):
        complaint = _compare_many(model, parts, can_truncate) or _check_rows_of_many(folder / "parts")
    complaint = complaint or _check_beyond_the_end(parts[0])
    verdict = "differs" if complaint else "equal"
    return Outcome(verdict, complaint, can_truncate, _why(sequential), _traits(config, layout))


def _why(sequential: dict[str, str]) -> str:
    reason = next(iter(sequential.values()), "")
    return reason if len(sequential) in (0, len(PARTS)) else f"{' and '.join(sequential)} only, as {reason}"


def _make_weights_matter(model: PreTrainedModel) -> None:
    """Random weights so large that a wrong or missing one shows in the logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def _compare(model: PreTrainedModel, parts: list[Part]) -> str:
    """Compares logits after chunks of several lengths, then greedy tokens one by one; says what is wrong."""
    ids_T = _prompt(sum(CHUNKS), seed=1)
    split, seen, complaint = Chain(parts), 0, ""
    logits_V = torch.empty(0)
    for length in CHUNKS:
        logits_V = split.append(ids_T[seen : seen + length])
        seen += length
        complaint = complaint or _difference(logits_V, _whole(model, ids_T[:seen]), f"{length} rows at {seen - length}")
    for i in range(NEW_TOKENS):
        ids_T = torch.cat([ids_T, logits_V.argmax()[None]])
        logits_V = split.append(ids_T[-1:])
        complaint = complaint or _difference(logits_V, _whole(model, ids_T), f"new token {i}")
    return complaint


def _compare_at_the_end(model: PreTrainedModel, parts: list[Part]) -> str:
    """As `_compare`, for a prompt that leaves room for two tokens; where no context ends, for a long one."""
    length = parts[0].context_length or NO_END
    ids_T = _prompt(length, seed=11)
    split, complaint = Chain(parts), ""
    for start, end in ((0, length - 2), (length - 2, length - 1), (length - 1, length)):
        logits_V = split.append(ids_T[start:end])
        complaint = complaint or _difference(
            logits_V, _whole(model, ids_T[:end]), f"row {end} of a context of {length}"
        )
    return complaint


def _check_beyond_the_end(bottom: Part) -> str:
    """Whether a prompt of the whole context is taken, and one row more refused."""
    length = bottom.context_length
    return "" if length is None else asyncio.run(_complain_of_the_end(bottom, length))


async def _complain_of_the_end(bottom: Part, length: int) -> str:
    with DeviceThread(1) as thread:
        engine = build_engine(bottom, thread)
        session = engine.open()
        try:
            await engine.step(session, 0, _prompt(length, seed=12))
            await engine.step(session, length, _prompt(1, seed=13))
        except ContextExceeded:
            return "" if session.reached == length else f"a prompt of the whole context, {length} rows, is refused"
    return f"one row more than the context of {length} is taken"


def _compare_after_truncation(model: PreTrainedModel, parts: list[Part]) -> str:
    kept_T, dropped_T, new_T = _prompt(19, seed=2), _prompt(14, seed=3), _prompt(3, seed=4)
    split = Chain(parts)
    split.append(kept_T)
    split.append(dropped_T)
    split.truncate(kept_T.shape[0])
    return _difference(split.append(new_T), _whole(model, torch.cat([kept_T, new_T])), "after truncation")


def _compare_many(model: PreTrainedModel, parts: list[Part], can_truncate: bool) -> str:
    """As `_compare`, for three sessions whose rows share each step, and of which the first then goes back."""
    many, complaint = Together(parts, len(CHUNKS_OF_MANY)), ""
    ids = [_prompt(sum(lengths), seed=7 + n) for n, lengths in enumerate(CHUNKS_OF_MANY)]
    seen = [0] * len(ids)

    def append(lengths: list[int], where: str) -> list[torch.Tensor]:
        nonlocal complaint
        logits = many.append({n: ids[n][seen[n] : seen[n] + length] for n, length in enumerate(lengths) if length})
        for n, logits_V in logits.items():
            seen[n] += lengths[n]
            expected_V = _whole(model, ids[n][: seen[n]])
            complaint = complaint or _difference(logits_V, expected_V, f"batched, session {n}, {where}")
        return list(logits.values())

    for lengths in zip(*CHUNKS_OF_MANY, strict=True):
        logits = append(list(lengths), f"{lengths} rows")
    for i in range(NEW_TOKENS_OF_MANY):
        ids = [torch.cat([ids_T, logits_V.argmax()[None]]) for ids_T, logits_V in zip(ids, logits, strict=True)]
        logits = append([1] * len(ids), f"new token {i}")
    seen[0] = 11 if can_truncate else 0
    many.truncate(0, seen[0])
    ids = [torch.cat([ids[0][: seen[0]], _prompt(3, seed=4)]), *(torch.cat([ids_T, ids_T[:1]]) for ids_T in ids[1:])]
    append([3, 1, 1], "after truncation")
    return complaint


def _difference(logits_V: torch.Tensor, expected_V: torch.Tensor, where: str) -> str:
    largest = float((logits_V - expected_V).abs().max())
    if not largest <= TOLERANCE or int(logits_V.argmax()) != int(expected_V.argmax()):
        return f"logits differ by {largest:.1e}: {where}"
    return "" if float(expected_V.std()) > 0.01 else f"logits are too much alike to compare: {where}"


def _check_rows(weights: Path) -> str:
    """Whether rows can travel: one flat row a token, in the part's dtype, also when that is bfloat16."""
    bottom, trunk, top = (load_part(weights, spec, dtype="bfloat16") for spec in (PLAN.bottom, PLAN.trunk, PLAN.top))
    caches = [part.new_cache() for part in (bottom, trunk, top)]
    for position, ids_T in ((0, _prompt(6, seed=5)), (6, _prompt(1, seed=6))):
        rows_TD = ids_T
        for part, cache in ((bottom, caches[0]), (trunk, caches[1])):
            rows_TD = part(rows_TD, position, cache)
            if rows_TD.shape != (ids_T.shape[0], part.hidden_size) or rows_TD.dtype != torch.bfloat16:
                return f"rows cannot travel: {rows_TD.dtype} {list(rows_TD.shape)}"
        if not bool(torch.isfinite(top(rows_TD, position, caches[2])).all()):
            return "logits in bfloat16 are not finite"
    return ""


def _check_rows_of_many(weights: Path) -> str:
    """As `_check_rows`, for a prompt and a next token in one step."""
    parts = [load_part(weights, spec, dtype="bfloat16") for spec in (PLAN.bottom, PLAN.trunk, PLAN.top)]
    many = Together(parts, 2)
    many.append({0: _prompt(6, seed=5)})
    logits = many.append({0: _prompt(1, seed=6), 1: _prompt(5, seed=7)})
    finite = all(bool(torch.isfinite(logits_V).all()) for logits_V in logits.values())
    return "" if finite else "logits in bfloat16 are not finite when batched"


def _traits(config: PretrainedConfig, layout: ModelLayout) -> tuple[str, ...]:
    text = config.get_text_config(decoder=True)
    values = text.to_dict()
    names = {*values, *(name for own in values.get("per_layer_config", {}).values() for name in own)}
    kinds = set(get_layer_types_and_kwargs(text)[0])
    experts = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "ffn_config")
    found = {_KINDS[kind] for kind in kinds if kind in _KINDS}
    found |= {"experts"} if any(values.get(name) for name in experts) else set()
    found |= {"latent attention"} if "kv_lora_rank" in names else set()
    found |= {"several streams"} if row_width(config) > text.hidden_size else set()
    found |= {"one row at a time"} if takes_one_row_at_a_time(config) else set()
    found |= {"text half of a larger model"} if layout.unused else set()
    return tuple(sorted(found))


def _prompt(length: int, seed: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def _whole(model: PreTrainedModel, ids_T: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.as_tensor(model(ids_T[None]).logits[0, -1])
