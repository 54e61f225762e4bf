import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from llm_sepweight import Manifest
from splitlearn.checkpoints.load import load_part
from splitlearn.runner.select import runner_for
from splitlearn_cli.verbs.plan import parse_sizes
from support.tiny_models import CONTEXT, N_LAYERS, random_model, save_checkpoint, save_sepweight, tiny_config

Run = Callable[..., Any]

MIB = 2**20
# a process without any layers
EMPTY = 512 * MIB


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight layers of about 5 MiB, whose keys and values take a third of a MiB for each session."""
    config = tiny_config("llama", num_hidden_layers=8, hidden_size=256, intermediate_size=1536)
    return save_sepweight(tmp_path_factory.mktemp("wide"), random_model(config))


def planned(splitlearn: Run, *words: object) -> dict[str, Any]:
    ran = splitlearn("plan", *words, "--json")
    assert ran.code == 0, ran.err
    return dict(json.loads(ran.out))


def test_the_table_and_the_commands(splitlearn: Run, wide: Path) -> None:
    ran = splitlearn("plan", wide, "--memory", "1GiB,545MiB", "--client-memory", "1GiB")

    assert ran.code == 0, ran.err
    table, commands = ran.out.split("\n\n")
    rows = [line.split() for line in table.splitlines()]
    assert rows[0][:3] == ["STAGE", "LAYERS", "WEIGHTS"]
    assert [row[:2] for row in rows[2:]] == [["worker", "1"], ["worker", "2"]]
    assert rows[1][:6] == ["client", "b", "0-1", "and", "7-8", "e"]
    first, second, client = commands.splitlines()
    assert first.startswith(
        f"splitlearn trunk {wide} --layers 1-5 --next HOST2:50051#TOKEN.FINGERPRINT --host 0.0.0.0 "
    )
    assert second.startswith(f"splitlearn trunk {wide} --layers 5-7 --host 0.0.0.0 ")
    assert "start the last worker first" in ran.err
    assert client.startswith(f"splitlearn client {wide} --layers 1-7 --trunk HOST1:50051#TOKEN.FINGERPRINT ")


def test_sizes_are_those_of_the_files_and_of_the_runners_rows(splitlearn: Run, wide: Path) -> None:
    found = planned(splitlearn, wide, "--memory", "1GiB,1GiB", "--sessions", "3", "--context", "300")

    files = Manifest.read(wide).files
    for stage in found["stages"]:
        first, last = map(int, stage["layers"].split("-"))
        assert stage["weights_bytes"] == sum(files[f"mid.{i:05d}"].size for i in range(first, last))
        rows = 512  # whole pages
        assert stage["cache_bytes"] == 3 * rows * runner_for(load_part(wide, stage["layers"])).row_bytes
        assert EMPTY < stage["total_bytes"] - stage["weights_bytes"] - stage["cache_bytes"] < EMPTY + 64 * MIB


def test_the_budgets_in_the_commands_hold_the_sessions(splitlearn: Run, wide: Path) -> None:
    found = planned(splitlearn, wide, "--memory", "1GiB,1GiB")

    for stage, command in zip(found["stages"], found["commands"], strict=False):
        assert command.endswith(f"--kv-cache-memory-bytes {stage['cache_bytes']}")
    # the client gives each of its ends half of its budget
    ends = [runner_for(load_part(wide, found["client"][end])).row_bytes for end in ("bottom", "top")]
    assert found["client"]["cache_bytes"] == 2 * 8 * CONTEXT * max(ends)
    assert found["commands"][-1].endswith(f"--kv-cache-memory-bytes {found['client']['cache_bytes']}")


def test_a_hugging_face_folder_is_planned_alike_and_converted_first(
    splitlearn: Run, tiny_llama: PreTrainedModel, tiny_weights: Path, tmp_path: Path
) -> None:
    folder = save_checkpoint(tmp_path / "tiny", tiny_llama)
    wish = ("--memory", "1GiB,1GiB", "--client-memory", "1GiB")

    ours, theirs = planned(splitlearn, tiny_weights, *wish), planned(splitlearn, folder, *wish)

    assert theirs["stages"] == ours["stages"]
    assert theirs["client"] == ours["client"]
    assert theirs["commands"][0] == f"splitlearn convert {folder} -o WEIGHTS"
    assert [each.replace("WEIGHTS", str(tiny_weights)) for each in theirs["commands"][1:]] == ours["commands"]


def test_a_slow_network_moves_layers_to_the_other_worker(splitlearn: Run, wide: Path) -> None:
    even = planned(splitlearn, wide, "--memory", "1GiB,1GiB")
    uneven = planned(splitlearn, wide, "--memory", "1GiB,1GiB", "--bandwidth", "100Gbit,1Gbit")

    assert [stage["layers"] for stage in even["stages"]] == ["1-4", "4-7"]
    assert [stage["layers"] for stage in uneven["stages"]] == ["1-5", "5-7"]


def test_a_worker_that_would_slow_the_chain_down_is_left_out_and_named(splitlearn: Run, wide: Path) -> None:
    ran = splitlearn("plan", wide, "--memory", "1GiB,1GiB", "--bandwidth", "1Gbit,1kbit")

    assert ran.code == 0
    assert "--next" not in ran.out
    assert "without layers" in ran.err
    assert "worker 2" in ran.err


@pytest.mark.parametrize(("quantization", "least", "most"), [("int8", 0.5, 0.52), ("int4", 0.28, 0.3)])
def test_rounded_weights_are_planned_with_and_passed_on(
    splitlearn: Run, tmp_path: Path, quantization: str, least: float, most: float
) -> None:
    config = tiny_config("llama", hidden_size=256, intermediate_size=1024)
    weights = save_sepweight(tmp_path, random_model(config).to(torch.bfloat16))

    stored = planned(splitlearn, weights, "--memory", "1GiB")
    rounded = planned(splitlearn, weights, "--memory", "1GiB", "--quantization", quantization)

    assert least < rounded["stages"][0]["weights_bytes"] / stored["stages"][0]["weights_bytes"] < most
    assert rounded["client"]["weights_bytes"] < stored["client"]["weights_bytes"]
    assert all(f"--quantization {quantization}" in command for command in rounded["commands"])


def test_keys_and_values_in_int8_are_planned_with_and_passed_on(splitlearn: Run, tmp_path: Path) -> None:
    config = tiny_config("llama", hidden_size=256, num_attention_heads=4, head_dim=64)
    weights = save_sepweight(tmp_path, random_model(config).to(torch.bfloat16))

    stored = planned(splitlearn, weights, "--memory", "1GiB")
    rounded = planned(splitlearn, weights, "--memory", "1GiB", "--kv-cache-dtype", "int8")

    # 64 numbers and a scale of four bytes, in place of 64 numbers of two bytes
    assert rounded["stages"][0]["cache_bytes"] * 128 == stored["stages"][0]["cache_bytes"] * 68
    assert rounded["client"]["cache_bytes"] * 128 == stored["client"]["cache_bytes"] * 68
    assert (stored["kv_cache_dtype"], rounded["kv_cache_dtype"]) == ("auto", "int8")
    assert all("--kv-cache-dtype int8" in command for command in rounded["commands"])
    assert not any("--kv-cache-dtype" in command for command in stored["commands"])


def test_a_tied_head_is_counted_as_the_copy_that_it_becomes(splitlearn: Run, tmp_path: Path) -> None:
    weights = save_sepweight(tmp_path, random_model(tiny_config("llama", tie_word_embeddings=True)))

    found = planned(splitlearn, weights, "--memory", "1GiB")

    files = Manifest.read(weights).files
    own = sum(files[name].size for name in ("begin", "mid.00000", f"mid.{N_LAYERS - 1:05d}", "end"))
    assert found["client"]["weights_bytes"] == own + 384 * 64 * 4


def test_what_does_not_fit_says_what_would_and_that_fits(splitlearn: Run, wide: Path) -> None:
    wish = ("plan", wide, "--memory", "540MiB,540MiB", "--client-memory", "560MiB")

    ran = splitlearn(*wish)

    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "layers 1-7 do not fit" in ran.err
    found = re.search(r"it fits with (--quantization int8) or (--sessions (\d+)) or (--context (\d+))$", ran.err)
    assert found is not None, ran.err
    for flags in (found[1], found[2], found[4]):
        assert splitlearn(*wish, *flags.split()).code == 0, flags
    assert splitlearn(*wish, "--sessions", int(found[3]) + 1).code == 1
    assert splitlearn(*wish, "--context", int(found[5]) + 1).code == 1


@pytest.mark.parametrize("given", [(), ("--quantization", "int8")])
def test_where_int8_would_not_fit_and_int4_would_it_says_so(
    splitlearn: Run, wide: Path, given: tuple[str, ...]
) -> None:
    limits = "--memory 535MiB --client-memory 539MiB --sessions 8 --context 256"
    wish = ("plan", wide, *limits.split(), *given)

    ran = splitlearn(*wish)

    assert ran.code == 1
    assert "it fits with --quantization int4" in ran.err
    assert splitlearn(*wish, "--quantization", "int4").code == 0


def test_a_client_that_is_too_small_is_told(splitlearn: Run, wide: Path) -> None:
    ran = splitlearn("plan", wide, "--memory", "1GiB", "--client-memory", "100MiB")

    assert ran.code == 1
    assert "the client lacks" in ran.err
    assert "it fits with" not in ran.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--memory", "much"), "--memory"),
        (("--memory", "0"), "--memory"),
        (("--memory", "1GiB,"), "--memory"),
        (("--memory", "1GiB", "--bandwidth", "1Gbit,1Gbit"), "--bandwidth"),
        (("--memory", "1GiB", "--memory-bandwidth", "fast"), "--memory-bandwidth"),
        (("--memory", "1GiB", "--context", str(CONTEXT + 1)), "--context"),
        (("--memory", "1GiB", "--sessions", "0"), "--sessions"),
        ((), "--memory"),
    ],
)
def test_a_wish_that_makes_no_sense_is_wrong_usage(
    splitlearn: Run, tiny_weights: Path, words: tuple[str, ...], named: str
) -> None:
    ran = splitlearn("plan", tiny_weights, *words)

    assert ran.code == 2
    assert named in ran.err


def test_a_directory_without_a_model_is_refused(splitlearn: Run, tmp_path: Path) -> None:
    ran = splitlearn("plan", tmp_path, "--memory", "1GiB")

    assert ran.code == 1
    assert "splitlearn convert" in ran.err


def test_sizes_count_bits_as_networks_do() -> None:
    assert parse_sizes("24GiB, 8GB,10Gbit") == (24 * 2**30, 8 * 10**9, 10**10 // 8)
