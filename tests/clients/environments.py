"""The environments of other people's programs, each made from a lock file that names every version in it.

pip, asked for several of these packages at once, backs off to versions of years ago without a word, so that a test
would speak with a program that nobody uses. A lock says what is used, and since when.
"""

import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "build" / "clients"
_FIRST_LINE = "# locked on {} by: python -m tests.clients.lock {}\n"


@dataclass(frozen=True)
class Environment:
    """Packages that go together.

    Attributes:
        requirements: what a lock is made from.
        sees_ours: whether it takes packages that it lacks from the environment of this interpreter; torch is large.
    """

    name: str
    requirements: tuple[str, ...]
    sees_ours: bool = False

    @property
    def lock(self) -> Path:
        return HERE / "locks" / f"{self.name}.txt"

    @property
    def python(self) -> Path:
        return FOLDER / self.name / "bin" / "python"

    def locked_on(self) -> datetime.date:
        """Raises ValueError: the lock's first line names no day."""
        found = re.match(_FIRST_LINE.format("(.*)", self.name), self.lock.read_text(encoding="utf-8"))
        if found is None:
            raise ValueError(f"{self.lock.name} does not begin with the day on which it was made")
        return datetime.date.fromisoformat(found[1])

    def make(self) -> None:
        """Installs what the lock names, if it is not there yet. Raises CalledProcessError."""
        stamp = FOLDER / self.name / "lock.sha256"
        digest = hashlib.sha256(self.lock.read_bytes() + sys.prefix.encode()).hexdigest()
        if not (stamp.exists() and stamp.read_text(encoding="utf-8") == digest):
            self._install("--no-deps", "-r", str(self.lock))
            stamp.write_text(digest, encoding="utf-8")

    def make_lock(self, today: datetime.date) -> None:
        """Installs the newest versions that go together, and writes them down. Raises CalledProcessError."""
        self._install("--upgrade", *self.requirements)
        freeze = [str(self.python), "-m", "pip", "freeze", "--local", "--exclude", "pip", "--exclude", "setuptools"]
        found = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
        self.lock.parent.mkdir(exist_ok=True)
        self.lock.write_text(_FIRST_LINE.format(today, self.name) + found, encoding="utf-8")

    def run(self, program: Sequence[str], **variables: str) -> str:
        """What a program of this environment prints: a path in `programs` with its arguments, or `-m` and so on.

        Raises:
            AssertionError: it failed; with all that it said.
        """
        proxies = {name for name in os.environ if name.lower().endswith("_proxy")}
        inherited = {name: value for name, value in os.environ.items() if name not in proxies}
        done = subprocess.run(
            [str(self.python), *program],
            cwd=HERE / "programs",
            env={**inherited, "NO_PROXY": "*", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", **variables},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{' '.join(program)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ask(self, program: str, **variables: str) -> Any:
        """The JSON in the last line that a program prints."""
        return json.loads(self.run([program], **variables).splitlines()[-1])

    def _install(self, *arguments: str) -> None:
        folder = FOLDER / self.name
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        if self.sees_ours:
            (site,) = (folder / "lib").glob("python*/site-packages")
            (ours,) = Path(sys.prefix, "lib").glob("python*/site-packages")
            (site / "ours.pth").write_text(f"{ours}\n", encoding="utf-8")
        subprocess.run([self.python, "-m", "pip", "install", "-qq", *arguments], check=True)


AGREEING = Environment(
    "agreeing", ("openai", "anthropic", "langchain-openai", "litellm", "llm", "pydantic-ai-slim[openai]")
)
INSTRUCTOR = Environment("instructor", ("instructor",))
LM_EVAL = Environment("lm_eval", ("lm-eval[api,hf]",), sees_ours=True)
GUIDELLM = Environment("guidellm", ("guidellm",), sees_ours=True)
OPEN_WEBUI = Environment("open_webui", ("open-webui",), sees_ours=True)
ALL = (AGREEING, INSTRUCTOR, LM_EVAL, GUIDELLM, OPEN_WEBUI)
