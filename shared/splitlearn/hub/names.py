"""Names of models on the hub, as they are given in place of a directory: ORG/NAME or ORG/NAME@REV.

The rule: a path that exists is a path. What does not exist and looks like a name is one, and everything else is a path
again, which then lacks what it should hold. A GGUF file has no name of this kind.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[\w.][\w./+-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST = 200
_GGUF = ".gguf"
MAIN = "main"


@dataclass(frozen=True)
class ModelName:
    """A model on the hub: `repo` is ORG/NAME, `revision` a branch, a tag or a commit."""

    repo: str
    revision: str = MAIN

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The name that a text is, or None if it is none: names have exactly one slash before the revision."""
        repo, at, revision = text.partition("@")
        if _REPO.fullmatch(repo) is None or repo.lower().endswith(_GGUF) or ".." in text or len(text) > _LONGEST:
            return None
        if not at:
            return cls(repo)
        return cls(repo, revision) if _REVISION.fullmatch(revision) else None

    @property
    def model(self) -> str:
        """What the model is called: the name without the organisation."""
        return self.repo.partition("/")[2]

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return self.repo if self.revision == MAIN else f"{self.repo}@{self.revision}"


def name_of(given: Path) -> ModelName | None:
    """The name that was given, or None if it is a path."""
    return None if os.path.lexists(given) else ModelName.parse(str(given))
