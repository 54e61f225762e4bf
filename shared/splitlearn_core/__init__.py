"""The other name of `splitlearn`: importing it, or anything in it, gives the very same modules."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import splitlearn


class _SameModule(MetaPathFinder, Loader):
    """Finds `splitlearn_core.x` as `splitlearn.x`, so that no module exists twice."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.startswith("splitlearn_core.") else None

    def exec_module(self, module: ModuleType) -> None:
        # the import system hands out what stands here after the module has run
        sys.modules[module.__name__] = import_module(module.__name__.replace("splitlearn_core", "splitlearn", 1))


sys.meta_path.insert(0, _SameModule())
sys.modules[__name__] = splitlearn
