"""Fixtures shared by all tests: quiet libraries, few threads, and models that are made once."""

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from support.tiny_models import random_model, save_sepweight, tiny_config

transformers_logging.disable_progress_bar()
# a shell that runs tests in the background ignores Ctrl-C for them, and so would every command that a test starts
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # tiny models: a second thread only waits, and the machine has other work


@pytest.fixture(scope="session")
def tiny_llama() -> PreTrainedModel:
    return random_model(tiny_config("llama"))


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory, tiny_llama: PreTrainedModel) -> Path:
    """A sepweight directory of the tiny llama, tokenizer included."""
    return save_sepweight(tmp_path_factory.mktemp("tiny"), tiny_llama)
