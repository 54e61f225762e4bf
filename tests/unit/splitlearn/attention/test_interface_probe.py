from pathlib import Path

import pytest
import torch

from architectures.small_configs import small_config
from splitlearn.attention.interface_probe import Probe, probe
from splitlearn.model.cache import PartCache
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from support.sessions import load_parts
from support.tiny_models import random_model, save_sepweight


def bottom(name: str, folder: Path) -> Part:
    return load_parts(save_sepweight(folder, random_model(small_config(name))), SplitPlan(2, 4, 6))[0]


def found_in(part: Part) -> Probe:
    def run(cache: PartCache) -> None:
        part(torch.arange(3, 5), cache.n_rows, cache)

    return probe(part, run)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("llama", Probe(uses_interface=True, is_told_positions=True)),
        ("biogpt", Probe(uses_interface=True, is_told_positions=True)),
        ("bart", Probe(uses_interface=True, is_told_positions=False)),
        # code of its own; a bias by position; other keys and values than those that its cache holds
        ("falcon", Probe(uses_interface=False, is_told_positions=True)),
        ("bloom", Probe(uses_interface=False, is_told_positions=True)),
        ("deepseek_v3", Probe(uses_interface=False, is_told_positions=True)),
        ("diffllama", Probe(uses_interface=False, is_told_positions=True)),
    ],
)
def test_how_a_part_attends_is_seen_in_what_it_does(tmp_path: Path, name: str, found: Probe) -> None:
    assert found_in(bottom(name, tmp_path)) == found


def test_a_part_that_was_probed_runs_as_before(tmp_path: Path) -> None:
    part, ids_T = bottom("bart", tmp_path), torch.arange(3, 12)
    before_TD = part(ids_T, 0, part.new_cache())
    found_in(part)
    assert (part(ids_T, 0, part.new_cache()) == before_TD).all()
    assert not any("forward" in vars(module) for module in part.modules())
