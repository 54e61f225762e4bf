"""Names that are not public: of transformers in `splitlearn.hf` alone, of torch in `splitlearn.torch_private` alone."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests/unit/splitlearn"
EDGE = ("shared/splitlearn/hf/", "shared/splitlearn/torch_private.py")
# documented as they are, though `import transformers` does not bring them
DOCUMENTED = {"transformers.utils.logging"}
# what the code of a model declares or overrides, as transformers' guide to adding one says
DECLARED_BY_MODELS = {
    "_can_record_outputs",
    "_init_weights",
    "_no_split_modules",
    "_skip_keys_device_placement",
    "_supports_attention_backend",
    "_supports_sdpa",
    "_tied_weights_keys",
}
MODELS = "shared/cleangpt/model/"
# texts that look like names of attributes and are none
TEXTS = {"_kernels_", "_layer_offset"}
PRIVATE = re.compile(r"_[a-z]\w*|__(code|closure|globals|wrapped|func|dict)__")


def product() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("shared", "services"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_proto" not in path.parts:
                yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


@cache
def own_names() -> frozenset[str]:
    """Private names that the product defines: those of others are strangers'."""
    return frozenset(name for _, tree in product() for node in ast.walk(tree) for name in defined(node))


def defined(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
        yield node.attr


def touched(node: ast.AST) -> Iterator[str]:
    """Names of attributes, also those that stand in a text, as for `getattr` or a dictionary of attributes."""
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.ImportFrom):
        yield from (each.name for each in node.names)


def strangers(path: str, tree: ast.Module, own: frozenset[str]) -> list[str]:
    """Private names of others that a module touches."""
    allowed = own | TEXTS | (DECLARED_BY_MODELS if path.startswith(MODELS) else set())
    names = [(getattr(node, "lineno", 0), name) for node in ast.walk(tree) for name in touched(node)]
    return [f"{path}:{line} {name}" for line, name in names if PRIVATE.fullmatch(name) and name not in allowed]


def submodules(path: str, tree: ast.Module) -> list[str]:
    """Modules of transformers that a module imports, or imports from."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            lower = [f"{node.module}.{each.name}" for each in node.names if each.name.islower()]
            found += [(node.lineno, name) for name in ([node.module] if "." in node.module else lower)]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, each.name) for each in node.names]
    return [f"{path}:{line} {name}" for line, name in found if name.startswith("transformers.")]


def test_private_names_of_others_are_touched_at_the_edge_alone() -> None:
    own = own_names()
    assert not [each for path, tree in product() if not path.startswith(EDGE) for each in strangers(path, tree, own)]


def test_modules_of_transformers_are_imported_at_the_edge_alone() -> None:
    found = [each for path, tree in product() if not path.startswith(EDGE) for each in submodules(path, tree)]
    assert not [each for each in found if each.split()[1] not in DOCUMENTED]


@pytest.mark.parametrize(
    "line",
    [
        "model._attn_implementation_internal = 'sdpa'",
        "vars(config)['_attn_implementation_internal']",
        "getattr(module, '_forward_hooks')",
        "function.__code__",
        "torch.ops.mkldnn._nbytes(packed)",
        "torch._foreach_copy_(targets, sources)",
        "from torch._C import _nn",
    ],
)
def test_a_private_name_is_seen(line: str) -> None:
    assert strangers("shared/splitlearn/model/part.py", ast.parse(line), own_names())


@pytest.mark.parametrize(
    "line",
    [
        "from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING",
        "from transformers import conversion_mapping",
        "import transformers.core_model_loading",
    ],
)
def test_a_module_of_transformers_is_seen(line: str) -> None:
    assert submodules("shared/splitlearn/model/part.py", ast.parse(line))


def test_every_function_of_the_edge_has_a_test() -> None:
    edge = ROOT / "shared/splitlearn"
    for module, tests in (
        (edge / "torch_private.py", TESTS / "test_torch_private.py"),
        *((each, TESTS / "hf" / f"test_{each.name}") for each in sorted((edge / "hf").glob("[a-z]*.py"))),
    ):
        functions = {
            node.name
            for node in ast.parse(module.read_text()).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        }
        text = tests.read_text()
        assert not {name for name in functions if not re.search(rf"\b{name}\b", text)}, module.name


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")
