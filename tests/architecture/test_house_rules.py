"""Rules of the house that a machine can check."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60


def modules() -> Iterator[Path]:
    for folder in ("shared", "services", "tests", "proto"):
        yield from (path for path in (ROOT / folder).rglob("*.py") if "_proto" not in path.parts)


def test_no_module_is_longer_than_the_cap() -> None:
    long = {str(p.relative_to(ROOT)): n for p in modules() if (n := len(p.read_text().splitlines())) > LONGEST_MODULE}
    assert not long


def test_no_function_is_longer_than_the_cap() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not long


def test_every_module_of_the_product_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in modules()
        if "tests" not in path.relative_to(ROOT).parts and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def test_every_package_has_layers_that_name_all_its_modules() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layered = {name for each in contracts if each.get("exhaustive") for name in each.get("containers", ())}
    packages = {
        ".".join(path.parent.relative_to(root).parts)
        for root in (ROOT / "shared", ROOT / "services")
        for path in root.rglob("__init__.py")
        if len([*path.parent.glob("[!_]*.py"), *path.parent.glob("*/__init__.py")]) > 1
    }
    assert len(packages) > 30
    assert packages - layered == set()


def test_links_in_the_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert not broken


def test_every_setting_is_documented_where_it_is_declared() -> None:
    from splitlearn_client.settings import ClientSettings
    from splitlearn_trunk.settings import TrunkSettings

    for settings in (ClientSettings, TrunkSettings):
        assert all(field.description for field in settings.model_fields.values())


def test_no_weights_are_committed_but_the_demo_model_and_the_agents() -> None:
    most_bytes = {"deploy/demo_model": 10_000_000, "tests/clients/agent_model/weights": 5_000_000}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    weights = [Path(name) for name in listed.split() if name.endswith((".safetensors", ".pt", ".pth", ".bin"))]
    assert {str(path.parent) for path in weights} <= most_bytes.keys()
    for folder, most in most_bytes.items():
        assert sum((ROOT / path).stat().st_size for path in weights if str(path.parent) == folder) < most


def test_no_model_is_opened_with_code_that_lies_beside_it() -> None:
    # transformers asks on the terminal unless it is told, and may then run what a stranger wrote
    asking = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("shared", "services", "deploy")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _is_auto(node.func) and not _says_no(node)
    ]
    assert not asking


def _is_auto(called: ast.expr) -> bool:
    return (
        isinstance(called, ast.Attribute)
        and called.attr in ("from_pretrained", "from_config")
        and isinstance(called.value, ast.Name)
        and called.value.id.startswith("Auto")
    )


def _says_no(call: ast.Call) -> bool:
    given = {each.arg: each.value for each in call.keywords}
    switch = given.get("trust_remote_code")
    return isinstance(switch, ast.Constant) and switch.value is False
