"""The other name gives the very same modules."""

import subprocess
import sys

import pytest


def test_every_module_exists_once_under_both_names() -> None:
    program = """
import splitlearn_core.models.gpt2 as one
from splitlearn_core import ModelFactory
from splitlearn_core.core import BaseBottomModel
from splitlearn_core.registry import ModelRegistry
import splitlearn, splitlearn_core, splitlearn.models.gpt2 as other, splitlearn.core, splitlearn.registry
assert splitlearn_core is splitlearn
assert one is other and one.__name__ == "splitlearn.models.gpt2"
assert ModelFactory is splitlearn.ModelFactory
assert BaseBottomModel is splitlearn.core.BaseBottomModel
assert ModelRegistry is splitlearn.registry.ModelRegistry
assert other.__spec__.name == "splitlearn.models.gpt2"
"""
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", program], check=True)


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"splitlearn\.nothing"):
        __import__("splitlearn_core.nothing")
