"""Shapes: T rows, D hidden size."""

from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from cleangpt.errors import ShadowFolderError
from cleangpt.model.shadow import ShadowConfig
from cleangpt.model.shadow_folder import export_shadow
from cleangpt.model.shadow_part import as_part, open_shadow_part
from splitlearn.model.part import Part
from splitlearn.runner.shadowed import ShadowPart
from support.shadows import random_shadow

CPU = torch.device("cpu")


def layers_of(made: ShadowPart) -> Part:
    assert made.part is not None
    return made.part


@pytest.mark.parametrize("width", [64, 32])
def test_a_shadow_as_a_part_gives_the_same_rows_also_row_by_row(width: int) -> None:
    shadow = random_shadow(width)
    hidden_TD = torch.randn(7, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected_TD = shadow(hidden_TD[None])[0]
        assert not torch.allclose(expected_TD, hidden_TD, atol=1e-2)
        made = as_part(shadow, CPU, torch.float32)
        part, found = layers_of(made), []
        cache = part.new_cache()
        for start, stop in ((0, 4), (4, 5), (5, 7)):
            entered = made.entrance(hidden_TD[start:stop])
            found.append(made.leave(hidden_TD[start:stop], part(entered, start, cache)))
    torch.testing.assert_close(torch.cat(found), expected_TD)


def test_it_computes_in_the_dtype_of_the_rows() -> None:
    made = as_part(random_shadow(32), CPU, torch.bfloat16)
    rows_TD = torch.randn(3, 64).bfloat16()
    part = layers_of(made)
    with torch.inference_mode():
        found_TD = made.leave(rows_TD, part(made.entrance(rows_TD), 0, part.new_cache()))
    assert found_TD.dtype == part.dtype == torch.bfloat16


@pytest.mark.parametrize("width", [64, 32])
def test_a_shadow_without_layers_has_no_part_and_gives_the_same_rows(width: int) -> None:
    shadow = random_shadow(width, n_layers=0)
    hidden_TD = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        made, expected_TD = as_part(shadow, CPU, torch.float32), shadow(hidden_TD[None])[0]
        assert not torch.allclose(expected_TD, hidden_TD, atol=1e-2)
        assert made.part is None
        assert torch.equal(made.leave(hidden_TD, made.entrance(hidden_TD)), expected_TD)


def test_the_client_finds_it_by_the_type_in_a_shadow_s_config(tmp_path: Path) -> None:
    [found] = entry_points(group="splitlearn_client.shadows", name=ShadowConfig.model_type)
    assert found.load() is open_shadow_part
    folder = export_shadow(random_shadow(), tmp_path / "shadow")
    assert layers_of(open_shadow_part(folder, CPU, torch.float32)).hidden_size == 64
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ShadowFolderError):
        open_shadow_part(folder, CPU, torch.float32)
