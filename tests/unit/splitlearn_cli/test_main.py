import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import pytest

from splitlearn_cli.group import VERBS

from .conftest import Ran
