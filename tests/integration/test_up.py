"""`splitlearn up` as a user runs it: three real processes, a tiny random model, loopback."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from transformers import PreTrainedModel

from splitlearn_comm.certificates import issue
from support.tiny_models import save_sepweight
from support.tls import NOW, authority, save

COMMAND = (sys.executable, "-m", "splitlearn_cli")
QUICK = ("--port", "0", "--threads", "1", "--max-tokens", "8")


def run(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


@contextmanager
def running(*words: object) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """`up`, from the moment on when it has printed the chat page's address."""
    command = [*COMMAND, "up", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            page = next((line for line in process.stdout if line.startswith("chat page: ")), None)
            assert page is not None, process.communicate()[1]
            yield process, page.split()[2]
        finally:
            process.terminate()


def test_a_prompt_is_answered_on_stdout_and_everything_stops(tiny_weights: Path, tmp_path: Path) -> None:
    done = run("up", tiny_weights, *QUICK, "--prompt", "the quick brown", "--log-dir", tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "chat page" not in done.stdout
    cost = done.stderr.splitlines()[-1]
    assert "tokens/s, first token after" in cost
    assert "received" in cost
    for name in ("trunk", "client"):
        assert '"event": "stopped"' in (tmp_path / f"{name}.log").read_text()


def test_it_streams_a_sample_and_serves_until_ctrl_c(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITLEARN_UP_API_KEY", "the-key-0123456789")
    with running(tiny_weights, *QUICK) as (process, page):
        children = psutil.Process(process.pid).children()
        process_list = str([child.cmdline() for child in children])
        stranger = run("generate", "the quick", "--url", page, "--max-tokens", 4)
        answer = run("generate", "the quick", "--url", page, "--max-tokens", 4, "--api-key", "the-key-0123456789")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert stranger.returncode == 1
    assert "give a key with --api-key" in stranger.stderr
    assert answer.returncode == 0, answer.stderr
    assert "the-key-0123456789" not in process_list
    assert process.returncode == 0, err
    assert "> What does shutil.copyfile do?" in err
    assert "tokens/s" in err
    assert len(children) == 2
    assert not any(child.is_running() for child in children)
    # a clean end leaves no logs behind
    folder = Path(next(line for line in err.splitlines() if line.startswith("logs: ")).removeprefix("logs: "))
    assert not folder.exists()


def test_certificates_in_the_environment_encrypt_the_api_and_not_the_way_between_the_two(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = authority()
    api = save(tmp_path, ca, issue(ca, ["127.0.0.1"], is_server=True, now=NOW, days=30), "api")
    monkeypatch.setenv("SPLITLEARN_CLIENT_SSL_CERTFILE", str(api.certificate))
    monkeypatch.setenv("SPLITLEARN_CLIENT_SSL_KEYFILE", str(api.key))
    worker = save(tmp_path, ca, issue(ca, ["worker.example"], is_server=True, now=NOW, days=30), "worker")
    monkeypatch.setenv("SPLITLEARN_TRUNK_TLS_CERT", str(worker.certificate))
    monkeypatch.setenv("SPLITLEARN_TRUNK_TLS_KEY", str(worker.key))
    monkeypatch.setenv("SPLITLEARN_TRUNK_TOKEN", "a-token-0123456789")

    with running(tiny_weights, *QUICK) as (process, page):
        assert page.startswith("https://127.0.0.1:")
        stranger = run("generate", "the quick", "--url", page, "--max-tokens", 4, "--wait", 0)
        monkeypatch.setenv("SSL_CERT_FILE", str(api.ca))
        answer = run("generate", "the quick", "--url", page, "--max-tokens", 4)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert "tokens/s" in err
    assert answer.returncode == 0, answer.stderr
    assert "CERTIFICATE_VERIFY_FAILED" in stranger.stderr
    (told,) = [line for line in err.splitlines() if line.startswith("not used")]
    names = ("TLS_CERT", "TLS_KEY", "TOKEN")
    assert told.endswith(": " + ", ".join(f"SPLITLEARN_TRUNK_{name}" for name in names))
    assert "a-token" not in err


def test_a_child_that_dies_is_named_and_the_other_one_is_stopped(tiny_llama: PreTrainedModel, tmp_path: Path) -> None:
    weights = save_sepweight(tmp_path, tiny_llama, chat=False)
    with running(weights, *QUICK, "--log-dir", tmp_path / "logs") as (process, _):
        children = psutil.Process(process.pid).children()
        next(child for child in children if "trunk" in child.cmdline()).kill()
        _, err = process.communicate(timeout=60)

    assert process.returncode == 1
    assert err.splitlines()[-1] == "splitlearn: error: the trunk was killed by SIGKILL"
    assert not any(child.is_running() for child in children)
    # this model has no chat template: the sample is left out, which is no reason not to serve
    assert "splitlearn generate --raw" in err


def test_a_child_that_cannot_start_gives_its_reason_in_one_line(tiny_weights: Path) -> None:
    done = run("up", tiny_weights, *QUICK, "--layers", "3-99")

    assert done.returncode == 1
    assert "3-99" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "logs" not in done.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("file", "flags", "says"),
    [
        ("begin", (), "client: "),
        # nobody compares digests, and what cannot be read shows when it is loaded
        ("end", ("--verify", "never"), "client: "),
    ],
)
def test_a_damaged_file_ends_it_at_once_and_whose_it_is_is_said(
    tiny_weights: Path, tmp_path: Path, file: str, flags: tuple[str, ...], says: str
) -> None:
    weights = Path(shutil.copytree(tiny_weights, tmp_path / "weights"))
    with (weights / f"{file}.safetensors").open("r+b") as damaged:
        damaged.write(b"\xff" * 8)
    # a start that is waited for to its end outlasts the test
    done = run("up", weights, *QUICK, *flags, "--start-timeout", 1000)

    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"splitlearn: error: {says}")
    assert f"{file}.safetensors" in last
    assert "Traceback" not in done.stderr
