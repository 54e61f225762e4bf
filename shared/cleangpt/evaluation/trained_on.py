"""Records which interpreter's documentation a model was trained on; other versions word some answers differently."""

import hashlib
import json
import platform
from collections.abc import Sequence
from pathlib import Path

from cleangpt.data.stdlib_questions import Question
from cleangpt.errors import ModelFolderError

TRAINED_ON_FILE = "trained_on.json"


def write_trained_on(folder: Path, questions: Sequence[Question]) -> None:
    """Writes this interpreter's version and a digest of its questions to the model's folder."""
    text = json.dumps(_trained_on(questions), indent=2) + "\n"
    (folder / TRAINED_ON_FILE).write_text(text, encoding="utf-8")


def other_text(folder: Path, questions: Sequence[Question]) -> str | None:
    """A one-line note if the model was trained on other questions than this interpreter's.

    None if the questions are the same, or if `folder` does not record what the model was trained on.
    Raises ModelFolderError if the record is damaged.
    """
    file = folder / TRAINED_ON_FILE
    if not file.exists():
        return None
    here = _trained_on(questions)
    try:
        trained = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{file} is not JSON ({error}); copy it again, or remove it") from error
    if not isinstance(trained, dict) or not trained.keys() >= here.keys():
        raise ModelFolderError(f"{file} does not say {', '.join(here)}; copy it again, or remove it")
    if trained["digest"] == here["digest"]:
        return None
    return (
        f"trained on the documentation of Python {trained['python']} ({trained['questions']} subjects); "
        f"this is Python {here['python']} ({here['questions']} subjects), which words some answers differently"
    )


def _trained_on(questions: Sequence[Question]) -> dict[str, str | int]:
    text = "\0".join(part for each in questions for part in (*each.phrasings, each.answer))
    return {
        "python": platform.python_version(),
        "questions": len(questions),
        "digest": hashlib.sha256(text.encode()).hexdigest(),
    }
