from pathlib import Path

import pytest
import torch

from cleangpt.errors import NotWrittenError, ShadowFolderError, TrunkMismatchError
from cleangpt.model.shadow import Shadow, ShadowConfig
from cleangpt.model.shadow_folder import export_shadow, load_shadow


@pytest.fixture
def shadow() -> Shadow:
    torch.manual_seed(0)
    return Shadow(ShadowConfig(16, width=16, num_attention_heads=2, intermediate_size=8, fingerprint="these ends"))


def test_what_was_exported_is_loaded_again(shadow: Shadow, tmp_path: Path) -> None:
    again = load_shadow(export_shadow(shadow, tmp_path / "s"), fingerprint="these ends")
    hidden_BTD = torch.randn(1, 4, 16)
    assert torch.equal(again(hidden_BTD), shadow.eval()(hidden_BTD))
    assert again.config.fingerprint == "these ends"
    assert not again.training


def test_it_replaces_an_older_shadow_and_leaves_nothing_beside(shadow: Shadow, tmp_path: Path) -> None:
    for _ in range(2):
        export_shadow(shadow, tmp_path / "s")
    assert [each.name for each in tmp_path.iterdir()] == ["s"]


def test_what_lies_beside_it_stays_and_a_failed_export_leaves_the_old_one(
    shadow: Shadow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export_shadow(shadow, tmp_path / "s")
    (folder / "notes.txt").write_text("the first one")
    hidden_BTD = torch.randn(1, 4, 16)
    expected_BTD = shadow.eval()(hidden_BTD)

    def full(self: Shadow, partial: Path) -> None:
        partial.mkdir(parents=True)
        (partial / "config.json").write_text("{")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Shadow, "save_pretrained", full)
        with pytest.raises(NotWrittenError, match=r"s could not be written \(no space"):
            export_shadow(shadow, folder)
    assert torch.equal(load_shadow(folder)(hidden_BTD), expected_BTD)
    assert sorted(each.name for each in folder.iterdir()) == ["config.json", "model.safetensors", "notes.txt"]
    torch.nn.init.normal_(next(shadow.parameters()))
    export_shadow(shadow, folder)
    assert torch.equal(load_shadow(folder)(hidden_BTD), shadow(hidden_BTD))
    assert sorted(each.name for each in folder.iterdir()) == ["config.json", "model.safetensors", "notes.txt"]


def test_a_shadow_for_other_ends_is_refused_with_both_fingerprints(shadow: Shadow, tmp_path: Path) -> None:
    export_shadow(shadow, tmp_path / "s")
    with pytest.raises(TrunkMismatchError, match=r"\[these ends\].*\[others\]"):
        load_shadow(tmp_path / "s", fingerprint="others")


@pytest.mark.parametrize("harm", ["cut", "gone", "other shape"])
def test_damaged_weights_are_refused(shadow: Shadow, tmp_path: Path, harm: str) -> None:
    file = export_shadow(shadow, tmp_path / "s") / "model.safetensors"
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    elif harm == "gone":
        file.unlink()
    else:
        config = tmp_path / "s" / "config.json"
        config.write_text(config.read_text().replace('"intermediate_size": 8', '"intermediate_size": 16'))
    with pytest.raises(ShadowFolderError, match=r"model\.safetensors"):
        load_shadow(tmp_path / "s")


def test_a_folder_of_something_else_is_neither_read_nor_overwritten(shadow: Shadow, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ShadowFolderError, match=r"config\.json"):
        load_shadow(tmp_path)
    with pytest.raises(ShadowFolderError, match="not a shadow"):
        export_shadow(shadow, tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ShadowFolderError, match=r"config\.json"):
        load_shadow(tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_an_empty_folder_is_filled_and_what_a_kill_left_beside_it_is_not_taken_along(
    shadow: Shadow, tmp_path: Path
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s.partial").mkdir()
    (tmp_path / "s.partial" / "half").touch()
    export_shadow(shadow, tmp_path / "s")
    assert sorted(each.name for each in (tmp_path / "s").iterdir()) == ["config.json", "model.safetensors"]
