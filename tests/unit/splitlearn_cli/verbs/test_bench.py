import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from support.scripted_openai import PROMPT_TOKENS, ScriptedOpenAI, scripted_openai

Run = Callable[..., Any]


@pytest.fixture
def openai() -> Iterator[ScriptedOpenAI]:
    with scripted_openai() as endpoint:
        yield endpoint


def test_every_level_is_measured_after_its_warm_up(splitlearn: Run, openai: ScriptedOpenAI, tmp_path: Path) -> None:
    ran = splitlearn(
        "bench", "--url", openai.url, "--max-concurrency", "1,3", "--num-prompts", 6, "--num-warmups", 2,
        "--output-tokens", 4, "--prompt-tokens", "3-5", "--json", tmp_path / "out.json", "--api-key", "secret",
    )  # fmt: skip

    assert (ran.code, ran.err) == (0, "")
    title, *_ = ran.out.splitlines()
    assert title == "steady, completions, prompts of 3-5 words, answers of up to 4 tokens, 6 requests per level"
    assert len(openai.asked) == 2 * (2 + 6)
    assert {len(asked.body["prompt"].split()) for asked in openai.asked} <= {3, 4, 5}
    text = (tmp_path / "out.json").read_text()
    found = json.loads(text)
    assert (found["splitlearn"], found["model"]) == (version("splitlearn"), "steady")
    assert found["settings"]["num_prompts"] == 6
    assert "secret" not in text
    assert {asked.headers["authorization"] for asked in openai.asked} == {"Bearer secret"}
    assert [level["load"]["value"] for level in found["levels"]] == [1, 3]
    for level in found["levels"]:
        assert level["summary"]["output_tokens"]["mean"] == 4
        assert level["summary"]["prompt_tokens"]["mean"] == PROMPT_TOKENS
        assert sorted(request["number"] for request in level["requests"]) == list(range(6))
        assert all(0 < request["ttft"] <= request["e2e"] for request in level["requests"])


def test_the_concurrency_is_reached_and_not_exceeded(splitlearn: Run, openai: ScriptedOpenAI) -> None:
    openai.together(3)

    ran = splitlearn(
        "bench", "--url", openai.url, "--max-concurrency", 3, "--num-prompts", 9, "--num-warmups", 3, "--timeout", 20
    )

    assert ran.code == 0, ran.err
    assert openai.most_under_way == 3


def test_arrivals_at_a_rate_wait_for_no_answer(splitlearn: Run, openai: ScriptedOpenAI) -> None:
    # all of them have to be under way before the first is answered
    openai.together(8)

    ran = splitlearn(
        "bench", "--url", openai.url, "--request-rate", 500, "--num-prompts", 8, "--num-warmups", 0, "--timeout", 20,
        "--api", "chat",
    )  # fmt: skip

    assert ran.code == 0, ran.err
    assert "RATE" in ran.out
    assert openai.most_under_way == 8
    assert {asked.path for asked in openai.asked} == {"/v1/chat/completions"}


def test_prompts_as_ids_have_exactly_their_length(splitlearn: Run, openai: ScriptedOpenAI) -> None:
    ran = splitlearn(
        "bench", "--url", openai.url + "/v1", "--prompt-kind", "ids", "--prompt-tokens", 7, "--num-prompts", 2
    )

    assert ran.code == 0
    assert [len(asked.body["prompt"]) for asked in openai.asked] == [7] * 4


@pytest.mark.parametrize(
    ("model", "kind"), [("busy", "HTTP 429 with Retry-After (Retry-After: 7)"), ("hangup", "incomplete")]
)
def test_a_run_in_which_everything_fails_shows_why_and_exits_with_1(
    splitlearn: Run, openai: ScriptedOpenAI, model: str, kind: str
) -> None:
    ran = splitlearn("bench", "--url", openai.url, "--model", model, "--num-prompts", 3, "--num-warmups", 1)

    assert ran.code == 1
    assert ran.out.splitlines()[3].split()[:3] == ["1", "3", "3"]
    warm, failures, complaint = ran.err.splitlines()
    assert warm.startswith("concurrency 1: 1 of 1 warm-up requests failed: ")
    assert failures.startswith(f"concurrency 1: 3 x {kind}: ")
    assert complaint == f"splitlearn: error: no request to {openai.url} succeeded"


def test_failures_among_answers_are_shown_and_are_no_reason_to_fail(splitlearn: Run, openai: ScriptedOpenAI) -> None:
    openai.answers_before_silence = 2

    ran = splitlearn("bench", "--url", openai.url, "--num-prompts", 4, "--num-warmups", 0, "--timeout", 0.5)

    assert ran.code == 0
    assert ran.out.splitlines()[3].split()[:3] == ["1", "4", "1"]
    assert ran.err.startswith("concurrency 1: 1 x timeout: ")


def test_ctrl_c_shows_what_was_measured_so_far(openai: ScriptedOpenAI, tmp_path: Path) -> None:
    openai.answers_before_silence = 3
    where = str(tmp_path / "out.json")
    words = ["bench", "--url", openai.url, "--num-prompts", "8", "--num-warmups", "0", "--json", where]
    command = [sys.executable, "-m", "splitlearn_cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert openai.fell_silent.wait(60)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()

    assert process.returncode == 130, err
    assert out.splitlines()[3].split()[:3] == ["1", "3", "0"]
    assert err.splitlines() == ["concurrency 1: interrupted, 3 of 8 requests had ended", "interrupted"]
    (level,) = json.loads((tmp_path / "out.json").read_text())["levels"]
    assert (level["interrupted"], len(level["requests"])) == (True, 3)


def test_ctrl_c_before_any_answer_says_so(openai: ScriptedOpenAI) -> None:
    words = ["bench", "--url", openai.url, "--model", "silent", "--num-prompts", "1", "--num-warmups", "0"]
    command = [sys.executable, "-m", "splitlearn_cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert openai.fell_silent.wait(60)
            os.kill(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()

    assert (process.returncode, out, err) == (130, "", "interrupted before any request had ended\n")


def test_a_plot_is_drawn_of_several_levels(splitlearn: Run, openai: ScriptedOpenAI, tmp_path: Path) -> None:
    path = tmp_path / "load.png"

    ran = splitlearn(
        "bench", "--url", openai.url, "--max-concurrency", "1,2", "--num-prompts", 2, "--output-tokens", 3,
        "--plot", path,
    )  # fmt: skip

    assert ran.code == 0, ran.err
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_plot_without_matplotlib_says_what_to_install_before_anything_is_sent(
    splitlearn: Run, openai: ScriptedOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    ran = splitlearn("bench", "--url", openai.url, "--max-concurrency", "1,2", "--plot", tmp_path / "load.png")

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert 'pip install "splitlearn[bench]"' in ran.err
    assert openai.asked == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--max-concurrency", "1", "--request-rate", "2"], "exclude each other"),
        (["--max-concurrency", "x"], "--max-concurrency (or SPLITLEARN_BENCH_MAX_CONCURRENCY): expected integers"),
        (["--request-rate", "0"], "--request-rate (or SPLITLEARN_BENCH_REQUEST_RATE): expected numbers above 0"),
        (["--prompt-tokens", "9-5"], "LOW not above HIGH"),
        (["--output-tokens", "0"], "expected at least 1"),
        (["--max-concurrency", "1,64", "--num-prompts", "32"], "--num-prompts 32 cannot reach --max-concurrency 64"),
        (["--api", "chat", "--prompt-kind", "ids"], "--prompt-kind ids needs --api completions"),
        (["--plot", "load.png"], "several levels"),
        (["--plot", "load.svg", "--request-rate", "1,2"], "should end in .png"),
        (["--json", "nowhere/out.json"], "there is no directory nowhere"),
        (["--url", "127.0.0.1:8000"], "http://HOST:PORT"),
        (["--url", "http://127.0.0.1:99999"], "out of range"),
        (
            ["--api-key", "ключ"],
            "--api-key (or SPLITLEARN_BENCH_API_KEY): it has characters that a header cannot",
        ),
    ],
)
def test_flags_that_make_no_sense_are_one_line_of_wrong_usage(
    splitlearn: Run, words: list[str], complaint: str
) -> None:
    ran = splitlearn("bench", *words)

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert complaint in ran.err


def test_an_unreachable_address_is_one_line(splitlearn: Run) -> None:
    ran = splitlearn("bench", "--url", "http://127.0.0.1:9", "--wait", 0)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("splitlearn: error: nothing answers at http://127.0.0.1:9 ")
    assert ran.err.count("\n") == 1


def test_a_service_that_is_starting_is_waited_for(splitlearn: Run, chat_service: Any) -> None:
    chat_service.busy = 2
    chat_service.chunks = [{"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}]

    ran = splitlearn("bench", "--url", chat_service.url, "--api", "chat", "--num-prompts", 1, "--num-warmups", 1)

    assert ran.code == 0, ran.err
    assert f"{chat_service.url} is not ready (no trunk answers); waiting up to 60 s" in ran.err
    assert chat_service.busy == -1
    assert len(chat_service.asked) == 2
