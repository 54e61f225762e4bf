"""Shapes: T rows, D hidden size."""

from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from cleangpt.errors import ShadowFolderError
from cleangpt.model.shadow import ShadowConfig
from cleangpt.model.shadow_folder import export_shadow
from cleangpt.model.shadow_part import as_part, open_shadow_part
from support.shadows import random_shadow

CPU = torch.device("cpu")


@pytest.mark.parametrize("width", [64, 32])
def test_a_shadow_as_a_part_gives_the_same_rows_also_row_by_row(width: int) -> None:
    shadow = random_shadow(width)
    hidden_TD = torch.randn(7, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected_TD = shadow(hidden_TD[None])[0]
        assert not torch.allclose(expected_TD, hidden_TD, atol=1e-2)
        made = as_part(shadow, CPU, torch.float32)
        cache, found = made.part.new_cache(), []
        for start, stop in ((0, 4), (4, 5), (5, 7)):
            entered = made.entrance(hidden_TD[start:stop])
            found.append(made.leave(hidden_TD[start:stop], made.part(entered, start, cache)))
    torch.testing.assert_close(torch.cat(found), expected_TD)


def test_it_computes_in_the_dtype_of_the_rows() -> None:
    made = as_part(random_shadow(32), CPU, torch.bfloat16)
    rows_TD = torch.randn(3, 64).bfloat16()
    with torch.inference_mode():
        found_TD = made.leave(rows_TD, made.part(made.entrance(rows_TD), 0, made.part.new_cache()))
    assert found_TD.dtype == made.part.dtype == torch.bfloat16


def test_the_client_finds_it_by_the_type_in_a_shadow_s_config(tmp_path: Path) -> None:
    [found] = entry_points(group="splitlearn_client.shadows", name=ShadowConfig.model_type)
    assert found.load() is open_shadow_part
    folder = export_shadow(random_shadow(), tmp_path / "shadow")
    assert open_shadow_part(folder, CPU, torch.float32).part.hidden_size == 64
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ShadowFolderError):
        open_shadow_part(folder, CPU, torch.float32)
