import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from llm_sepweight import Manifest
from splitlearn_privacy.costs import costs, plain_costs
from splitlearn_privacy.cut_model import CutModel
from splitlearn_privacy.texts import Texts
from splitlearn_privacy.wire import Distortion
from support.attack_scene import texts
from support.tiny_models import VOCABULARY, random_model, save_sepweight, tiny_config

TEXTS = texts(1, 20)


def test_the_loss_is_the_whole_models(cut_model: CutModel, tiny_llama: PreTrainedModel) -> None:
    plain = plain_costs(cut_model, TEXTS)

    with torch.no_grad():
        expected = float(tiny_llama(TEXTS.test_NT, labels=TEXTS.test_NT).loss)
    assert plain.loss == pytest.approx(expected, rel=1e-5)
    assert plain.client_seconds > 0


def test_only_what_a_model_is_expected_to_say_counts(cut_model: CutModel, tiny_llama: PreTrainedModel) -> None:
    last_only_NT = torch.zeros_like(TEXTS.test_said_NT)
    last_only_NT[:, -1] = True

    found = plain_costs(cut_model, Texts(TEXTS.training_NT, TEXTS.test_NT, last_only_NT)).loss

    with torch.no_grad():
        logits_NV = tiny_llama(TEXTS.test_NT).logits[:, -2]
    assert found == pytest.approx(float(cross_entropy(logits_NV, TEXTS.test_NT[:, -1])), rel=1e-5)


def test_the_clients_bytes_are_those_of_its_layers(cut_model: CutModel, tiny_weights: Path) -> None:
    files = Manifest.read(tiny_weights).files
    stored = sum(files[name].size for name in ("begin", "mid.00000", "mid.00004", "end"))

    # files have headers
    assert plain_costs(cut_model, TEXTS).client_bytes == pytest.approx(stored, rel=0.05)


def test_noise_costs_perplexity_and_a_codec_saves_bytes(cut_model: CutModel) -> None:
    plain = plain_costs(cut_model, TEXTS)

    exact, noisy, small = (
        costs(cut_model, TEXTS, each, plain, 0) for each in (Distortion(), Distortion(noise=3.0), Distortion("int8"))
    )

    assert exact.perplexity == pytest.approx(math.exp(plain.loss), rel=1e-5)
    assert exact.perplexity_change == pytest.approx(0, abs=1e-3)
    assert exact.agreement == 1
    assert noisy.agreement < 1
    assert noisy.perplexity != pytest.approx(exact.perplexity, rel=1e-3)
    assert (exact.row_bytes, small.row_bytes) == (4 * 64, 68)


def test_a_head_that_is_the_table_of_embeddings_is_one_tensor_of_the_clients(tmp_path: Path) -> None:
    sizes = [
        plain_costs(CutModel.load(save_sepweight(tmp_path / str(tied), model), None), TEXTS).client_bytes
        for tied in (False, True)
        for model in [random_model(tiny_config("llama", tie_word_embeddings=tied))]
    ]

    assert sizes[0] - sizes[1] == 4 * 64 * VOCABULARY
