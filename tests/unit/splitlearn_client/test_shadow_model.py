"""A shadow between the client's own bottom and top guesses what the three together say."""

import json
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cleangpt.distillation.ends import Ends, ShadowedModel
from cleangpt.model.shadow import Shadow
from splitlearn.engine import DeviceThread
from splitlearn.model.plan import SplitPlan
from splitlearn_client.errors import BadModelFiles
from splitlearn_client.local_parts import LocalParts
from splitlearn_client.settings import ClientSettings
from splitlearn_client.shadow_model import GROUP, ShadowModel
from support.shadows import LAYERS, exported, random_shadow
from support.tiny_models import N_LAYERS, random_model, save_sepweight, tiny_config

PROMPT = list(range(3, 20))


@pytest.fixture(scope="module")
def thread() -> Iterator[DeviceThread]:
    with DeviceThread(1) as thread:
        yield thread


def settings_of(weights: Path, folder: Path, **changes: Any) -> ClientSettings:
    given = {"speculative_method": "shadow", "speculative_model": folder, "device": "cpu", **changes}
    return ClientSettings(weights=weights, **given)


async def completed(settings: ClientSettings, thread: DeviceThread) -> tuple[ShadowModel, LocalParts]:
    assert settings.speculative_model is not None
    model, _ = await thread.run(ShadowModel.load, settings.speculative_model, settings)
    parts, _ = await thread.run(LocalParts.load, settings, SplitPlan.parse(model.layers, N_LAYERS), thread)
    await thread.run(model.complete, parts, settings, thread)
    return model, parts


async def guessed(model: ShadowModel, n: int) -> list[int]:
    found: list[int] = []
    drafter = model.drafter(60)
    async with aclosing(drafter.guesses(PROMPT)) as coming:
        async for guess in coming:
            found.append(guess.token)
            if len(found) == n:
                break
    await drafter.aclose()
    return found


def greedy(weights: Path, shadow: Shadow, n: int) -> list[int]:
    """What cleangpt says of the same three."""
    ends = replace(Ends.load(weights, LAYERS), fingerprint=shadow.fingerprint)
    model, found = ShadowedModel(ends, shadow), []
    cache, ids_T = model.new_cache(), torch.tensor(PROMPT)
    for _ in range(n):
        found.append(int(model.step(ids_T, cache).argmax()))
        ids_T = torch.tensor(found[-1:])
    return found


@pytest.mark.parametrize(("width", "n_layers"), [(64, 2), (32, 2), (32, 0)])
async def test_guesses_are_the_greedy_text_of_bottom_shadow_and_top(
    tiny_weights: Path, tmp_path: Path, thread: DeviceThread, width: int, n_layers: int
) -> None:
    shadow = random_shadow(width, n_layers=n_layers)
    folder = exported(shadow, tmp_path / "shadow", tiny_weights)
    model, parts = await completed(settings_of(tiny_weights, folder), thread)
    assert await guessed(model, 8) == greedy(tiny_weights, shadow, 8)
    # in memory of its own
    assert parts.bottom.pages.used == parts.top.pages.used == 0


async def test_bottom_and_top_are_in_memory_once(tiny_weights: Path, tmp_path: Path, thread: DeviceThread) -> None:
    folder = exported(random_shadow(), tmp_path / "shadow", tiny_weights)
    model, parts = await completed(settings_of(tiny_weights, folder), thread)
    assert model._engine is not None
    assert model._engine.part is parts.bottom.part


async def test_its_rows_take_as_many_bytes_as_are_allowed(
    tiny_weights: Path, tmp_path: Path, thread: DeviceThread
) -> None:
    folder = exported(random_shadow(), tmp_path / "shadow", tiny_weights)
    kv_bytes = 2**20
    model, _ = await completed(settings_of(tiny_weights, folder, kv_cache_memory_bytes=kv_bytes), thread)
    engine = model._engine
    assert engine is not None
    most_rows = kv_bytes // engine.row_bytes
    assert 0 <= most_rows - engine.pages.total * engine.pages.page_size < engine.pages.page_size


def test_one_that_was_fitted_for_another_model_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    other = save_sepweight(tmp_path, random_model(tiny_config("llama"), seed=9))
    folder = exported(random_shadow(), tmp_path / "shadow", other)
    with pytest.raises(BadModelFiles, match=r"was fitted for \[.*\], this client holds \[.*cleangpt distill --shadow"):
        ShadowModel.load(folder, settings_of(tiny_weights, folder))


def test_one_of_another_cut_than_is_asked_for_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    folder = exported(random_shadow(), tmp_path / "shadow", tiny_weights)
    assert ShadowModel.load(folder, settings_of(tiny_weights, folder, layers=LAYERS)).layers == LAYERS
    with pytest.raises(BadModelFiles, match=r"fitted for layers 1-4, and --layers is 2-3; .*--layers 2-3"):
        ShadowModel.load(folder, settings_of(tiny_weights, folder, layers="2-3"))


def test_the_trunk_s_dtype_may_be_another(tiny_weights: Path, tmp_path: Path) -> None:
    folder = exported(random_shadow(), tmp_path / "shadow", tiny_weights)
    edit(folder, lambda config: config.update(fingerprint=config["fingerprint"].replace("float32", "bfloat16")))
    assert ShadowModel.load(folder, settings_of(tiny_weights, folder)).layers == LAYERS


def edit(folder: Path, change: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def test_one_that_was_never_fitted_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    folder = exported(random_shadow(), tmp_path / "shadow", tiny_weights)
    edit(folder, lambda config: config.update(fingerprint=""))
    with pytest.raises(BadModelFiles, match=r"not fitted for a model .*cleangpt distill --shadow --weights"):
        ShadowModel.load(folder, settings_of(tiny_weights, folder))


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"model_type": "llama"}'])
def test_a_folder_of_something_else_is_refused(tiny_weights: Path, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadModelFiles, match=r"config\.json .*name the folder that `cleangpt distill --shadow` wrote"):
        ShadowModel.load(tmp_path, settings_of(tiny_weights, tmp_path))


def brought(folder: Path, name: str, value: str) -> None:
    """What pip leaves of a package that brings a type of shadows."""
    told = folder / "brought-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value}\n")


def test_a_type_that_no_package_brings_is_refused_with_what_to_install(tiny_weights: Path, tmp_path: Path) -> None:
    folder = exported(random_shadow(), tmp_path / "shadow", tiny_weights)
    edit(folder, lambda config: config.update(model_type="nobody_brings_this"))
    with pytest.raises(BadModelFiles, match=r"nobody_brings_this, and no package .*client\.shadows; install"):
        ShadowModel.load(folder, settings_of(tiny_weights, folder))


def test_a_package_that_cannot_be_imported_is_named(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported(random_shadow(), tmp_path / "shadow", tiny_weights)
    edit(folder, lambda config: config.update(model_type="half_there"))
    brought(tmp_path, "half_there", "nowhere.to_be_found:load")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadModelFiles, match=r"half_there, whose loader nowhere\.to_be_found:load cannot be imported"):
        ShadowModel.load(folder, settings_of(tiny_weights, folder))
