"""The attacks that are trained, on rows of a model with random weights."""

import pytest
import torch

from splitlearn_privacy.attacks import ATTACKS, Attack
from splitlearn_privacy.attacks.probes import LINEAR_PROBE, MLP_PROBE
from splitlearn_privacy.attacks.sequence_inverter import SEQUENCE_INVERTER
from splitlearn_privacy.cut_model import Seen
from splitlearn_privacy.wire import Distortion
from support.attack_scene import N_TRAINING, Scene


def share_read(attack: Attack, scene: Scene, kind: Seen, distortion: Distortion | None = None) -> float:
    knowledge, seen, wanted_NT = scene(kind, distortion, n_training=N_TRAINING, most=24)
    found_NTK = attack.read(knowledge, seen).ids_NTK
    assert found_NTK.shape == (*wanted_NT.shape, 5)
    return float((found_NTK[..., 0] == wanted_NT).double().mean())


@pytest.mark.parametrize("kind", list(Seen))
@pytest.mark.parametrize("attack", [LINEAR_PROBE, MLP_PROBE, SEQUENCE_INVERTER], ids=lambda each: each.name)
def test_far_more_than_by_chance_is_read(scene: Scene, attack: Attack, kind: Seen) -> None:
    # of 24 tokens chance names one
    assert share_read(attack, scene, kind) > 0.2


def test_of_noise_alone_nothing_is_read(scene: Scene) -> None:
    assert share_read(LINEAR_PROBE, scene, Seen.OUTGOING, Distortion(noise=100.0)) < 0.2


def test_training_is_repeatable_and_leaves_the_random_numbers_of_others(scene: Scene) -> None:
    knowledge, seen, _ = scene(Seen.OUTGOING, n_training=N_TRAINING, most=24)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)

    first = LINEAR_PROBE.read(knowledge, seen).ids_NTK
    drawn = torch.rand(1)
    second = LINEAR_PROBE.read(knowledge, seen).ids_NTK

    assert torch.equal(first, second)
    assert torch.equal(drawn, expected)


def test_every_attack_names_its_paper_and_no_two_share_a_name() -> None:
    assert all(each.source.startswith("arXiv ") for each in ATTACKS)
    assert len({each.name for each in ATTACKS}) == len(ATTACKS)
