"""Fixtures shared by all tests: quiet libraries, few threads, and models that are made once."""

import gc
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from splitlearn_comm.certificates import CertifiedKey
from splitlearn_comm.tls import TLSFiles
from support.tiny_models import random_model, save_sepweight, tiny_config
from support.tls import authority, client_of, save, worker_of

transformers_logging.disable_progress_bar()
# a shell that runs tests in the background ignores Ctrl-C for them, and so would every command that a test starts
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # tiny models: a second thread only waits, and the machine has other work


def pytest_collection_finish() -> None:
    """Garbage collections do not look through thousands of collected tests each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_llama() -> PreTrainedModel:
    return random_model(tiny_config("llama"))


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory, tiny_llama: PreTrainedModel) -> Path:
    """A sepweight directory of the tiny llama, tokenizer included."""
    return save_sepweight(tmp_path_factory.mktemp("tiny"), tiny_llama)


@pytest.fixture(scope="session")
def ca() -> CertifiedKey:
    """An authority, which signs what tests ask for."""
    return authority()


@pytest.fixture
def worker_files(tmp_path: Path, ca: CertifiedKey) -> TLSFiles:
    """A worker's certificate in files."""
    return save(tmp_path, ca, worker_of(ca), "worker")


@pytest.fixture
def client_files(tmp_path: Path, ca: CertifiedKey) -> TLSFiles:
    """A client's certificate in files, beside the worker's."""
    return save(tmp_path, ca, client_of(ca), "client")


# Tests of tests/equivalence whose subject is what becomes of preempted sessions. They are named here, and not marked
# there, because the results of `make test-versions` hold for the files of that folder as they are.
_PREEMPT = frozenset(
    {
        "test_after_losing_its_pages",
        "test_sessions_that_lose_their_pages_in_a_pool_say_the_same",
        "test_sessions_that_lose_their_pages_send_everything_again_and_say_the_same",
    }
)


@pytest.fixture(autouse=True)
def _engines_that_preempt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the engines of these tests admit more sessions than will fit, so that they have to preempt some."""
    if getattr(request.node, "originalname", None) not in _PREEMPT:
        return
    from splitlearn.engine import Engine
    from support.crowd import admit_too_many

    initialize = Engine.__init__

    def initialize_and_admit(engine: Engine, *args: Any, **settings: Any) -> None:
        initialize(engine, *args, **settings)
        admit_too_many(engine)

    monkeypatch.setattr(Engine, "__init__", initialize_and_admit)
