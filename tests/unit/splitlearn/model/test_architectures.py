"""Model types that other packages bring."""

import subprocess
import sys
from pathlib import Path

import pytest

from splitlearn.errors import UnsupportedModel
from splitlearn.model.architectures import GROUP, is_known


def install(folder: Path, entry_points: str) -> None:
    """What pip leaves of a package that names these in the group."""
    told = folder / "brought-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(f"[{GROUP}]\n{entry_points}\n")


def test_a_type_of_transformers_is_known_and_one_that_nobody_brings_is_not() -> None:
    assert is_known("llama")
    assert not is_known("nobody_brings_this")


def test_a_type_is_known_once_the_package_that_brings_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_known("brought_type")
    install(tmp_path, "brought_type = brought_here")
    (tmp_path / "brought_here.py").write_text(
        "from transformers import AutoConfig, PreTrainedConfig\n"
        "class Brought(PreTrainedConfig):\n"
        "    model_type = 'brought_type'\n"
        "AutoConfig.register('brought_type', Brought)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert is_known("brought_type")


def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "half_there = nowhere.to_be_found")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnsupportedModel, match=r"'half_there' comes with nowhere\.to_be_found.*No module"):
        is_known("half_there")


def test_a_process_that_never_heard_of_the_package_finds_its_types() -> None:
    asked = (
        "import sys; from splitlearn.model.layout import config_from_dict\n"
        "assert not [name for name in sys.modules if name.startswith('cleangpt')]\n"
        "print(type(config_from_dict({'model_type': 'cleangpt_sasp', 'hidden_size': 24})).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "SASPConfig"
