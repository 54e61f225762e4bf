"""Shapes: T rows, D hidden size, V vocabulary."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel

from architectures.small_configs import small_config
from llm_sepweight import Manifest, PartSpec
from splitlearn.backends.vllm import installation
from splitlearn.checkpoints.load import load_part, unfilled_part
from splitlearn.errors import BadDevice, EngineUnavailable
from splitlearn.model.part import Part, cut
from splitlearn.model.plan import SplitPlan
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.interface import SequenceInput
from splitlearn.runner.select import runner_for, vllm_runner_for, why_not_batched, why_not_vllm
from splitlearn.runner.sequential import SequentialRunner
from support.sessions import Together, load_parts
from support.tiny_models import random_model, save_sepweight, tiny_config

Model = tuple[PreTrainedModel, list[Part]]

# what makes each of them special: shared keys, caps and windows, a window, sinks, latents, learned positions
IN_BATCHES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: tiny_config("llama"),
    "gemma2": lambda: tiny_config("gemma2", sliding_window=6),
    "mistral": lambda: tiny_config("mistral", sliding_window=6),
    "gpt_oss": lambda: small_config("gpt_oss"),
    "deepseek_v3": lambda: small_config("deepseek_v3"),
    "deepseek_v2": lambda: small_config("deepseek_v2"),
    "gpt2": lambda: tiny_config("gpt2"),
}
# attention by code of their own: rotary, with a bias by position, with a window, without a projection, differential,
# scaled by position; positions that they count themselves; and attention of which transformers does not say enough
OWN_CODE: dict[str, Callable[[], PretrainedConfig]] = {
    "falcon": lambda: tiny_config("falcon"),
    "bloom": lambda: small_config("bloom"),
    "gpt_neo": lambda: small_config("gpt_neo"),
    "rembert": lambda: small_config("rembert"),
    "diffllama": lambda: small_config("diffllama"),
    "llama4_text": lambda: small_config("llama4_text"),
    "bart": lambda: small_config("bart"),
    "xmod": lambda: small_config("xmod"),
    "biogpt": lambda: small_config("biogpt"),
}
IN_BATCHES |= OWN_CODE
IN_TURN: dict[str, Callable[[], PretrainedConfig]] = {"mamba2": lambda: small_config("mamba2")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Models and their three parts, each made once."""
    known: dict[str, Model] = {}

    def make(name: str) -> Model:
        if name not in known:
            config = {**IN_BATCHES, **IN_TURN}[name]()
            model = random_model(config)
            weights = save_sepweight(tmp_path_factory.mktemp(name), model)
            known[name] = model, load_parts(weights, SplitPlan(1, 3, config.num_hidden_layers))
        return known[name]

    return make


def ids(length: int, seed: int) -> torch.Tensor:
    return torch.randint(3, 100, (length,), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def whole(model: PreTrainedModel, ids_T: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(model(ids_T[None]).logits[0, -1])


class Several:
    """Sessions run together, each compared with the whole model after every step."""

    def __init__(self, model: PreTrainedModel, parts: list[Part], n_sessions: int) -> None:
        self._model = model
        self.together = Together(parts, n_sessions)
        self._texts = [torch.empty(0, dtype=torch.long) for _ in range(n_sessions)]

    def step(self, chunks: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        logits = self.together.append(chunks)
        for n, ids_T in chunks.items():
            self._texts[n] = torch.cat([self._texts[n], ids_T])
            torch.testing.assert_close(logits[n], whole(self._model, self._texts[n]), atol=1e-4, rtol=0)
            assert logits[n].std() > 0.01
        return logits

    def truncate(self, session: int, position: int) -> None:
        self.together.truncate(session, position)
        self._texts[session] = self._texts[session][:position]


@pytest.mark.parametrize("name", [*IN_BATCHES, *IN_TURN])
def test_sessions_of_unlike_lengths_come_out_as_the_whole_model_has_them(
    made: Callable[[str], Model], name: str
) -> None:
    model, parts = made(name)
    several = Several(model, parts, 3)
    assert all(runner.is_batched is (name in IN_BATCHES) for runner in several.together.runners)
    several.step({0: ids(7, 0), 1: ids(1, 1), 2: ids(25, 2)})
    several.step({1: ids(12, 3), 0: ids(1, 4)})  # a prompt with history beside a token, and one session that pauses
    logits = several.step({0: ids(3, 5), 1: ids(1, 6), 2: ids(15, 7)})
    for _ in range(5):
        logits = several.step({n: logits_V.argmax()[None] for n, logits_V in logits.items()})


@pytest.mark.parametrize("name", IN_BATCHES)
def test_a_session_goes_back_while_others_go_on(made: Callable[[str], Model], name: str) -> None:
    several = Several(*made(name), 2)
    several.step({0: ids(20, 0), 1: ids(9, 1)})
    several.truncate(0, 11)
    several.step({0: ids(1, 2), 1: ids(1, 3)})
    several.truncate(1, 0)
    several.step({0: ids(4, 4), 1: ids(8, 5)})


def test_a_recurrent_session_goes_back_to_its_beginning(made: Callable[[str], Model]) -> None:
    several = Several(*made("mamba2"), 2)
    several.step({0: ids(6, 0), 1: ids(9, 1)})
    several.truncate(0, 0)
    several.step({0: ids(4, 2), 1: ids(1, 3)})


@pytest.mark.parametrize("name", ["llama", "gpt2", *OWN_CODE])
def test_rows_that_a_part_hands_on_equal_those_of_one_session(made: Callable[[str], Model], name: str) -> None:
    part = made(name)[1][1]
    runner = runner_for(part)
    assert isinstance(runner, BatchedRunner)
    rows = [torch.randn(n, part.hidden_size, generator=torch.Generator().manual_seed(n)) for n in (5, 1, 8)]
    spans = [SequenceInput(runner.new_kv(None), 0, rows_TD) for rows_TD in rows]
    for output_TD, rows_TD in zip(runner.run(spans), rows, strict=True):
        torch.testing.assert_close(output_TD, part(rows_TD, 0, part.new_cache()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_logits_are_computed_for_those_who_need_them(made: Callable[[str], Model], name: str) -> None:
    top = made(name)[1][2]
    runner = runner_for(top)
    rows = [torch.randn(n, top.hidden_size, generator=torch.Generator().manual_seed(n)) for n in (5, 1, 8)]
    kvs = [runner.new_kv(None) for _ in rows]
    spans = [SequenceInput(kv, 0, rows_TD) for kv, rows_TD in zip(kvs, rows, strict=True)]
    _, logits_V, _ = runner.run([replace(spans[0], wanted="none"), spans[1], replace(spans[2], wanted="none")])
    torch.testing.assert_close(logits_V, top(rows[1], 0, top.new_cache()), atol=1e-5, rtol=0)
    # what was computed without them is there all the same
    last_TD = torch.randn(1, top.hidden_size)
    (after_V,) = runner.run([SequenceInput(kvs[2], 8, last_TD)])  # type: ignore[list-item]
    torch.testing.assert_close(after_V, top(torch.cat([rows[2], last_TD]), 0, top.new_cache()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "falcon", "gpt2"])
@pytest.mark.parametrize("is_batched", [True, False])
def test_logits_of_all_rows_are_those_of_the_rows_one_by_one(
    made: Callable[[str], Model], name: str, is_batched: bool
) -> None:
    top = made(name)[1][2]
    runner = runner_for(top) if is_batched else SequentialRunner(top)
    rows = [torch.randn(n, top.hidden_size, generator=torch.Generator().manual_seed(n)) for n in (5, 1, 8)]
    kvs = [runner.new_kv(None) for _ in rows]
    wants = ("last", "all", "all")
    spans = [SequenceInput(kv, 0, rows_TD, want) for kv, rows_TD, want in zip(kvs, rows, wants, strict=True)]
    last_V, *all_ = runner.run(spans)
    assert last_V.shape == all_[0][0].shape
    for logits_TV, rows_TD in zip(all_, rows[1:], strict=True):
        cache = top.new_cache()
        one_by_one = [top(rows_TD[i : i + 1], i, cache) for i in range(len(rows_TD))]
        torch.testing.assert_close(logits_TV, torch.stack(one_by_one), atol=1e-5, rtol=0)
    # of one row each, which take another way
    again = [SequenceInput(kv, len(rows_TD), rows[1], want) for kv, rows_TD, want in zip(kvs, rows, wants, strict=True)]
    assert [output.shape for output in runner.run(again)] == [last_V.shape, (1, *last_V.shape), (1, *last_V.shape)]


@pytest.mark.parametrize("name", ["llama", "falcon", "gpt2"])
@pytest.mark.parametrize("is_batched", [True, False])
def test_hidden_states_are_what_the_head_gets_beside_the_logits_of_others(
    made: Callable[[str], Model], name: str, is_batched: bool
) -> None:
    top = made(name)[1][2]
    runner = runner_for(top) if is_batched else SequentialRunner(top)
    rows = [torch.randn(n, top.hidden_size, generator=torch.Generator().manual_seed(n)) for n in (5, 1, 8)]
    kvs = [runner.new_kv(None) for _ in rows]
    wants = ("hidden", "last", "hidden")
    spans = [SequenceInput(kv, 0, rows_TD, want) for kv, rows_TD, want in zip(kvs, rows, wants, strict=True)]
    first_TD, last_V, third_TD = runner.run(spans)
    torch.testing.assert_close(last_V, top(rows[1], 0, top.new_cache()), atol=1e-5, rtol=0)
    head = top.model.get_output_embeddings()
    for hidden_TD, rows_TD in ((first_TD, rows[0]), (third_TD, rows[2])):
        logits_TV = top(rows_TD, 0, top.new_cache(), wanted="all")
        torch.testing.assert_close(head(hidden_TD), logits_TV, atol=1e-5, rtol=0)
    # of one row each, for which the fused decode step has no hidden states
    again = [SequenceInput(kv, len(rows_TD), rows[1], want) for kv, rows_TD, want in zip(kvs, rows, wants, strict=True)]
    first_1D, last_V, _ = runner.run(again)
    whole_TV = top(torch.cat([rows[0], rows[1]]), 0, top.new_cache(), wanted="all")
    torch.testing.assert_close(head(first_1D)[0], whole_TV[-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(last_V, top(torch.cat([rows[1], rows[1]]), 0, top.new_cache()), atol=1e-5, rtol=0)


def test_a_backend_s_own_step_of_one_row_each_is_not_asked_for_hidden_states(
    made: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    top = made("llama")[1][2]
    runner = runner_for(top)
    assert isinstance(runner, BatchedRunner)
    row_1D = torch.randn(1, top.hidden_size)
    hidden_1D = top(row_1D, 0, top.new_cache(), wanted="hidden")

    def logits_alone(*given: Any) -> torch.Tensor:
        _runner, _rows, _sessions, wanted, *_ = given
        return torch.zeros(len(wanted), 7)

    monkeypatch.setattr(type(runner._backend), "run_step", logits_alone)
    found = {
        wants: runner.run([SequenceInput(runner.new_kv(None), 0, row_1D, want) for want in wants])
        for wants in (("last", "all", "none"), ("last", "hidden"))
    }
    assert [output.shape for output in found["last", "all", "none"]] == [(7,), (1, 7), (0, 7)]
    torch.testing.assert_close(found["last", "hidden"][1], hidden_1D, atol=1e-5, rtol=0)


def test_a_step_in_which_nobody_needs_logits_computes_none(made: Callable[[str], Model]) -> None:
    top = made("llama")[1][2]
    runner = runner_for(top)
    assert isinstance(runner, BatchedRunner)
    kvs, seen = [runner.new_kv(None) for _ in range(2)], []
    hook = top.model.get_submodule("lm_head").register_forward_hook(lambda *given: seen.append(given[2].shape))
    outputs = runner.run([SequenceInput(kv, 0, torch.randn(3, top.hidden_size), wanted="none") for kv in kvs])
    hook.remove()
    assert [shape[:-1].numel() for shape in seen] == [0]
    assert [output.numel() for output in outputs] == [0, 0]
    assert [kv.n_rows for kv in kvs] == [3, 3]


def test_the_part_runs_as_before_when_no_step_is_going_on(made: Callable[[str], Model]) -> None:
    part = made("llama")[1][1]
    rows_TD = torch.randn(4, part.hidden_size)
    before_TD = part(rows_TD, 0, part.new_cache())
    runner = runner_for(part)
    runner.run([SequenceInput(runner.new_kv(None), 0, rows_TD)])  # type: ignore[list-item]
    assert torch.equal(part(rows_TD, 0, part.new_cache()), before_TD)


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_after_a_failure_midway_the_rows_can_be_sent_again(made: Callable[[str], Model], name: str) -> None:
    class Broken(Exception):
        pass

    def fail(*_: object) -> None:
        raise Broken

    part = made(name)[1][1]
    runner = runner_for(part)
    assert isinstance(runner, BatchedRunner)
    rows_TD, kvs = torch.randn(6, part.hidden_size), [runner.new_kv(None) for _ in range(2)]
    runner.run([SequenceInput(kv, 0, rows_TD[:4]) for kv in kvs])
    hook = part.model.get_submodule(part.layout.layers)[1].register_forward_pre_hook(fail)
    with pytest.raises(Broken):
        runner.run([SequenceInput(kv, 4, rows_TD[4:]) for kv in kvs])
    hook.remove()
    expected_TD = part(rows_TD, 0, part.new_cache())[4:]
    for output_TD in runner.run([SequenceInput(runner.truncate(kv, 4), 4, rows_TD[4:]) for kv in kvs]):
        torch.testing.assert_close(output_TD, expected_TD, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_a_session_may_begin_with_rows_of_another(made: Callable[[str], Model], name: str) -> None:
    part = made(name)[1][1]
    runner = runner_for(part)
    assert runner.can_share_rows
    rows_TD = torch.randn(12, part.hidden_size)
    first = runner.new_kv(None)
    runner.run([SequenceInput(first, 0, rows_TD[:9])])  # type: ignore[list-item]
    second = runner.copy_prefix(runner.new_kv(None), first, 6)  # type: ignore[arg-type]
    (output_TD,) = runner.run([SequenceInput(second, 6, rows_TD[6:])])  # type: ignore[list-item]
    expected_TD = part(rows_TD, 0, part.new_cache())
    torch.testing.assert_close(output_TD, expected_TD[6:], atol=1e-5, rtol=0)
    (output_TD,) = runner.run([SequenceInput(first, 9, rows_TD[9:])])  # type: ignore[list-item]
    torch.testing.assert_close(output_TD, expected_TD[9:], atol=1e-5, rtol=0)


def test_a_recurrent_session_cannot_begin_with_rows_of_another(made: Callable[[str], Model]) -> None:
    assert not runner_for(made("mamba2")[1][1]).can_share_rows


@pytest.mark.parametrize(
    ("name", "n_numbers"),
    # keys and values of two heads of 16; one latent of 24 and its rotary half; all four heads' keys and values
    [("llama", 2 * 2 * 16), ("deepseek_v3", 24 + small_config("deepseek_v3").qk_rope_head_dim), ("gpt2", 2 * 64)],
)
def test_a_row_takes_what_its_layers_keep(made: Callable[[str], Model], name: str, n_numbers: int) -> None:
    part = made(name)[1][1]
    assert runner_for(part).row_bytes == len(part.layers) * n_numbers * 4


def test_a_row_of_a_recurrent_part_takes_nothing(made: Callable[[str], Model]) -> None:
    assert runner_for(made("mamba2")[1][1]).row_bytes == 0


def test_in_half_precision_keys_and_rows_stay_there(tmp_path: Path) -> None:
    weights = save_sepweight(tmp_path, random_model(tiny_config("gemma2", sliding_window=6)))
    part = load_part(weights, "1-3", dtype="bfloat16")
    runner = runner_for(part)
    assert isinstance(runner, BatchedRunner)
    rows = [torch.randn(n, part.hidden_size, dtype=torch.bfloat16) for n in (9, 1)]
    outputs = runner.run([SequenceInput(runner.new_kv(None), 0, rows_TD) for rows_TD in rows])
    for output_TD, rows_TD in zip(outputs, rows, strict=True):
        assert output_TD.dtype == torch.bfloat16
        expected_TD = part(rows_TD, 0, part.new_cache())
        assert (output_TD - expected_TD).norm() < 0.02 * expected_TD.norm()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (small_config("mamba2"), "recurrent state"),
        (small_config("qwen3_next"), "recurrent state"),
        (small_config("deepseek_v4"), "recurrent state"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_what_is_served_one_session_at_a_time_says_why(config: PretrainedConfig, words: str) -> None:
    assert words in str(why_not_batched(cut(config, PartSpec.parse("2-4"))))


@pytest.mark.parametrize("name", IN_BATCHES)
def test_what_runs_in_batches_has_no_reason_not_to(name: str) -> None:
    assert why_not_batched(cut(IN_BATCHES[name](), PartSpec.parse("2-4"))) is None


def test_the_runner_is_chosen_by_the_part(made: Callable[[str], Model]) -> None:
    assert isinstance(runner_for(made("llama")[1][0]), BatchedRunner)
    assert isinstance(runner_for(made("mamba2")[1][0]), SequentialRunner)


def test_keys_and_values_in_int8_are_refused_where_no_kernel_reads_them(made: Callable[[str], Model]) -> None:
    with pytest.raises(BadDevice, match=r"for our kernels on a CPU, in bf16 and .* --kv-cache-dtype auto"):
        runner_for(made("llama")[1][0], None, "int8")
    with pytest.raises(BadDevice, match=r"it keeps a recurrent state, .*: use --kv-cache-dtype auto"):
        runner_for(made("mamba2")[1][0], None, "int8")


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("1-3", None),
        ("b 0-3", "not layers alone"),
    ],
)
def test_what_vllm_cannot_serve_is_known_before_it_is_started(
    layers: str, expected: str | None, tiny_weights: Path
) -> None:
    part = unfilled_part(tiny_weights, layers)
    reason = why_not_vllm(part, Manifest.read(tiny_weights))
    assert reason is None if expected is None else reason is not None and expected in reason


def test_weights_that_are_stored_in_four_bits_are_not_for_vllm(tiny_weights: Path) -> None:
    manifest = replace(Manifest.read(tiny_weights), dequantized={"mid.00001": 1})
    reason = why_not_vllm(unfilled_part(tiny_weights, "1-3"), manifest)
    assert reason is not None
    assert "4 bits" in reason


def test_without_vllm_nothing_is_started(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "installed_version", lambda: None)
    part = unfilled_part(tiny_weights, "1-3")
    with pytest.raises(EngineUnavailable, match="vLLM is not installed"):
        vllm_runner_for(part, None, directory=tiny_weights, max_rows=8, max_requests=2)
