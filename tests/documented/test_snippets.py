"""README and tutorials, pasted from top to bottom into one shell. Of what they show, the numbers may be others."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from support.pasted import Shell, compare, follow
from support.tiny_models import random_model, save_checkpoint, tiny_config

# every command is a process of its own, which spends seconds on imports
_pasted = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_FOLDER = _ROOT / "docs" / "tutorials"
_BEFORE = {"distil": "train_cut_serve", "evaluate": "distil"}


@dataclass
class Workplace:
    """A folder and a shell in which tutorials are followed."""

    shell: Shell
    n_blocks: dict[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.shell.folder

    def finish(self, name: str) -> None:
        """Follows a tutorial, and those that it goes on from, unless that is done already."""
        if name in self.n_blocks:
            return
        if name in _BEFORE:
            self.finish(_BEFORE[name])
        self.n_blocks[name] = follow(_FOLDER / f"{name}.md", self.shell)
        assert self.shell.paste("jobs -r") == "", f"{name} leaves something running"
        said = self.shell.said()
        assert said.count('"event": "stopped"') == said.count('"event": "serving"')


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """One folder for all: a tutorial goes on where the one before it ended."""
    folder = tmp_path_factory.mktemp("tutorials")
    with Shell(folder, tmp_path_factory.mktemp("errors") / "stderr.txt") as shell:
        yield Workplace(shell)


@pytest.fixture
def tiny_hub(tmp_path: Path) -> Path:
    """A folder for HF_HOME: the cache holds a model of as many layers as the README's, and little else of it."""
    hub = tmp_path / "hub"
    repository = hub / "hub" / "models--Qwen--Qwen2-0.5B"
    commit = "0" * 40
    save_checkpoint(repository / "snapshots" / commit, random_model(tiny_config("qwen2", num_hidden_layers=24)))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return hub


def _is_drawn(file: Path) -> bool:
    with Image.open(file) as picture:
        colors = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    return colors is not None and len(colors) > 16


@_pasted
def test_train_cut_serve(workplace: Workplace) -> None:
    workplace.finish("train_cut_serve")
    assert workplace.n_blocks["train_cut_serve"] >= 9
    losses = json.loads((workplace.folder / "model" / "history.json").read_text())["losses"]
    assert sum(losses[-5:]) / 5 < 0.8 * losses[0]
    # what the worker was given: its own layers, and no tokenizer
    assert sorted(file.name for file in (workplace.folder / "worker").iterdir()) == [
        "manifest.json",
        "mid.00001.safetensors",
        "mid.00002.safetensors",
    ]


@_pasted
def test_distil(workplace: Workplace) -> None:
    workplace.finish("distil")
    found = json.loads((workplace.folder / "student" / "history.json").read_text())
    for stage in (*found["blocks"], found["head"]):
        assert sum(stage["losses"][-5:]) < 0.9 * sum(stage["losses"][:5])
    assert (workplace.folder / "from_afar" / "shadow" / "model.safetensors").exists()
    assert not (workplace.folder / "client" / "mid.00001.safetensors").exists()


@_pasted
def test_evaluate(workplace: Workplace) -> None:
    workplace.finish("evaluate")
    found = json.loads((workplace.folder / "student.json").read_text())
    assert found["teacher"]["loss"] < found["student"]["loss"]
    assert found["agreement"]["top_1"] > 0.2
    assert len(found["comparisons"]) == 4
    tokens = json.loads((workplace.folder / "tokens.json").read_text())
    assert (tokens["samples"], tokens["vocabulary"]) == (12, 512)
    assert _is_drawn(workplace.folder / "student.png")
    assert _is_drawn(workplace.folder / "tokens.png")


@_pasted
def test_readme_with_a_model_of_the_hub(tiny_hub: Path, tmp_path: Path) -> None:
    """What `pip install` does is not repeated here; the hub is a cache that holds a tiny model of that name."""
    readme = (_ROOT / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("## Your own model") : readme.index("## Which models")]
    document = tmp_path / "README.md"
    document.write_text(re.sub(r"^pip install .*\n", "", section, flags=re.MULTILINE), encoding="utf-8")
    (folder := tmp_path / "empty").mkdir()
    with Shell(folder, tmp_path / "stderr.txt", {"HF_HOME": str(tiny_hub)}) as shell:
        assert follow(document, shell) >= 3
        assert shell.paste("splitlearn info 127.0.0.1:50051").count("Qwen2-0.5B") >= 1
        shell.paste("kill $(jobs -p)\nwait")
        assert shell.said().count('"event": "stopped"') == 2


@pytest.mark.parametrize(
    "file", [*sorted(_FOLDER.glob("*.md")), _FOLDER.parent / "cleangpt.md"], ids=lambda file: file.stem
)
def test_links_between_documents_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8")):
        assert (file.parent / target).exists(), target


def test_what_a_tutorial_shows_is_compared() -> None:
    compare("a 1.5 MB\nc 3,000\n", "a   20.25 MB\nb\nc 7\n")
    with pytest.raises(AssertionError, match="the document shows"):
        compare("c 1\na 1\n", "a 1\nc 1\n")
