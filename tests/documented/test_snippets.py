"""Every page that holds commands, pasted from top to bottom into one shell. Of what pages show, numbers may be others.

Three tutorials share a shell, as one goes on where another ended; a fourth has a far trunk. README has a hub with a
model in it. Any other page, also a new one, gets a folder of its own.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from support.far_link import Network, far_away
from support.pasted import ROOT, Shell, blocks, compare, follow, pasted_blocks, unpasteable
from support.running_split import free_port
from support.tiny_models import random_model, save_checkpoint, tiny_config

# every command is a process of its own, which spends seconds on imports
_pasted = pytest.mark.slow

_README = ROOT / "README.md"
_FOLDER = ROOT / "docs" / "tutorials"
_BEFORE = {"distil": "train_cut_serve", "evaluate": "distil"}
_PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
_LANGUAGES = {
    page: {block.language for block in pasted_blocks(page.read_text(encoding="utf-8"))} - {"text"} for page in _PAGES
}
# what the libraries' pages show has tests of its own here, under these names, with models in the place of their names
_RETYPED = {"docs/llm_sepweight", "docs/splitlearn", "docs/splitlearn_comm"}
# what a page takes for granted
_GIVEN = {"docs/weights": "splitlearn convert Qwen/Qwen2-0.5B -o weights"}


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT).with_suffix(""))


_IN_ORDER = {f"docs/tutorials/{name}" for name in ("train_cut_serve", "distil", "evaluate", "from_a_laptop")}
_BY_THEMSELVES = [page for page in _PAGES if _LANGUAGES[page] and _name(page) not in {"README", *_IN_ORDER, *_RETYPED}]


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
    assert found["agreement"]["top_1"] > 0.1
    assert len(found["comparisons"]) == 5
    tokens = json.loads((workplace.folder / "tokens.json").read_text())
    assert (tokens["samples"], tokens["vocabulary"]) == (12, 512)
    assert _is_drawn(workplace.folder / "student.png")
    assert _is_drawn(workplace.folder / "tokens.png")


@_pasted
def test_from_a_laptop(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy" / "demo_model", (folder := tmp_path / "empty") / "deploy" / "demo_model")
    port = free_port()
    with (
        far_away(port, Network(round_trip=0.08)) as box,
        Shell(folder, tmp_path / "stderr.txt", trunk=f"127.0.0.1:{port}", hosts={"box.example:50051": box}) as shell,
    ):
        assert follow(_FOLDER / "from_a_laptop.md", shell) >= 6
        assert shell.paste("jobs -r") == ""
        assert shell.said().count('"event": "stopped"') == shell.said().count('"event": "serving"') == 3
        first, second = map(float, re.findall(r"tokens, ([0-9.]+) tokens/s", shell.said()))
    # one token a trip at most, and then several
    assert first < 12.5 < 2 * first < second


@_pasted
def test_readme_with_a_model_of_the_hub(tiny_hub: Path, tmp_path: Path) -> None:
    """The hub is a cache that holds a tiny model of that name."""
    (folder := tmp_path / "empty").mkdir()
    with Shell(folder, tmp_path / "stderr.txt", {"HF_HOME": str(tiny_hub)}) as shell:
        assert follow(_README, shell) >= 4
        assert shell.paste("splitlearn info 127.0.0.1:50051").count("Qwen2-0.5B") >= 1
        shell.paste("kill $(jobs -p)\nwait")
        assert shell.said().count('"event": "stopped"') == 2


@_pasted
@pytest.mark.parametrize("page", _BY_THEMSELVES, ids=_name)
def test_any_other_page(page: Path, tiny_hub: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "empty").mkdir()
    if "deploy/" in page.read_text(encoding="utf-8"):
        shutil.copytree(ROOT / "deploy", folder / "deploy")
    with Shell(folder, tmp_path / "stderr.txt", {"HF_HOME": str(tiny_hub)}) as shell:
        shell.paste(_GIVEN.get(_name(page), ""))
        follow(page, shell)
        assert shell.paste("jobs -r") == "", "the page leaves something running"
        n_killed = page.read_text(encoding="utf-8").count("kill -9")
        assert shell.said().count('"event": "stopped"') + n_killed == shell.said().count('"event": "serving"')


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_whatever_can_be_typed_is_in_a_block_that_is_pasted_or_says_why_not(page: Path) -> None:
    assert unpasteable(page.read_text(encoding="utf-8")) == []


def test_pages_whose_python_is_retyped_have_tests_here_and_no_commands() -> None:
    for name in _RETYPED:
        assert (ROOT / "tests" / "documented" / f"test_{Path(name).stem}.py").exists()
        assert _LANGUAGES[ROOT / f"{name}.md"] == {"python"}


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ("```\n$ splitlearn up weights\n```\n", ["$ splitlearn up weights"]),
        ("```sh\nsplitlearn up weights\n```\n", ["splitlearn up weights"]),
        ("```console\n$ make run\n```\n", ["$ make run"]),
        ("Try:\n\n    MODEL=./weights docker compose up\n", ["MODEL=./weights docker compose up"]),
        ("## More\n    docker compose up --scale trunk=2\n", ["docker compose up --scale trunk=2"]),
        ("Try:\n\n    from cleangpt.model import get_model\n", ["from cleangpt.model import get_model"]),
        ("```py\nimport torch\n```\n", ["import torch"]),
        ("```bash\nsplitlearn up weights\n```\n", []),
        ("<!-- not pasted: it needs a GPU -->\n```console\n$ make run\n```\n", []),
        ("<!-- not pasted: it needs Docker -->\n\n    docker compose up\n", []),
        ("<!-- not pasted: -->\n```console\n$ make run\n```\n", ["$ make run"]),
        ("```\ntext -> bottom -> trunk\n```\n\n    a = x + W_O v\n", []),
        ("```toml\nmake = 1\n```\n", []),
    ],
)
def test_commands_that_nobody_would_paste_are_found(document: str, found: list[str]) -> None:
    assert unpasteable(document) == found


def test_a_block_is_left_out_where_the_page_says_why() -> None:
    marked = "<!-- not pasted: it needs a GPU -->\n```bash\na\n```\n"
    document = f"{marked}\n```bash\nb\n```\n<!-- not pasted: -->\n```bash\nc\n```\n"
    assert [(each.text, each.reason) for each in blocks(document)] == [
        ("a\n", "it needs a GPU"),
        ("b\n", ""),
        ("c\n", ""),
    ]
    assert [each.text for each in pasted_blocks(document)] == ["b\n", "c\n"]


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("```bash\ntrue\nfalse\ntrue\n```\n", "1 false"),
        ("```bash\nexit 0\n```\n", "it has ended"),
        ('```bash\npip install -e ".[no-such]"\n```\n', "nothing stands in for: pip install"),
        ('```bash\npip install -e ".[client,nothing]"\n```\n', "no extras named nothing"),
        ("```bash\nmake nothing\n```\n", "No rule to make target"),
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```python\na = 1\n```\n```bash\ntrue\n```\n```python\nprint(b)\n```\n", "name 'b' is not defined"),
        ("```bash\necho a\n```\n```text\nb\n```\n", "the document shows"),
        ("```python\nprint('a')\n```\n```text\nb\n```\n", "the document shows"),
    ],
)
def test_a_page_fails_where_a_block_fails(document: str, complaint: str, tmp_path: Path) -> None:
    (page := tmp_path / "page.md").write_text(document, encoding="utf-8")
    with Shell(tmp_path, tmp_path / "stderr.txt") as shell, pytest.raises(AssertionError, match=complaint):
        follow(page, shell)


def test_blocks_of_a_page_go_on_from_one_another(tmp_path: Path) -> None:
    (page := tmp_path / "page.md").write_text(
        "```bash\nmake run\npip install -e '.[client,train]'\nprintf 1 >one\nprintf without-an-end\n```\n"
        "```python\none = open('one').read()\nprint(one, end='')\n```\n```text\n1\n```\n"
        "```python\nprint('again', one)\n```\n```text\nagain 1\n```\n",
        encoding="utf-8",
    )
    with Shell(tmp_path, tmp_path / "stderr.txt") as shell:
        assert follow(page, shell) == 5


def test_what_a_tutorial_shows_is_compared() -> None:
    compare("a 1.5 MB\nc 3,000\n", "a   20.25 MB\nb\nc 7\n")
    with pytest.raises(AssertionError, match="the document shows"):
        compare("c 1\na 1\n", "a 1\nc 1\n")
