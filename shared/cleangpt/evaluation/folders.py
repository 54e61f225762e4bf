"""Evaluates models from folders: whole models, students next to their teachers, shadows next to their trunks."""

import json
from dataclasses import dataclass
from pathlib import Path

from cleangpt.data.text_record import TextRecord
from cleangpt.distillation.trunks import PATIENCE_SECONDS, opened
from cleangpt.errors import UsageError
from cleangpt.evaluation.evaluate import ANSWER_TOKENS, Subject, evaluate_model, refuse_other_tokens
from cleangpt.evaluation.model_folder import load_model
from cleangpt.evaluation.report import Report
from cleangpt.evaluation.shadows import ShadowSubject, evaluate_shadow
from cleangpt.evaluation.speed import size_of
from cleangpt.evaluation.texts import TextChoice, read_evaluation_text
from cleangpt.model.context import context_of
from cleangpt.model.device import device_of
from cleangpt.model.shadow import ShadowConfig
from cleangpt.model.shadow_folder import load_shadow
from cleangpt.tokenizers import create_tokenizer
from cleangpt.tokenizers.hugging_face import HuggingFaceTokenizer


@dataclass(frozen=True)
class FolderRequest:
    """What to evaluate, and on which text.

    `folder` holds a model or a shadow. `teacher` holds its teacher, or for a shadow the sepweight directory with bottom
    and top. A shadow's trunk consists of `layers` from that directory, or serves at the address `trunk`, where it gets
    `trunk_wait` seconds to start. `device` None means a GPU if there is one; shadows are measured on the CPU. With
    `is_compared`, prompts from the text are continued by `max_new_tokens` tokens.
    """

    folder: Path
    text: TextChoice
    teacher: Path | None = None
    is_compared: bool = False
    device: str | None = None
    layers: str | None = None
    trunk: str | None = None
    trunk_wait: float = PATIENCE_SECONDS
    max_new_tokens: int = ANSWER_TOKENS


def evaluate_folder(request: FolderRequest) -> Report:
    """Loads the folders and measures.

    Raises:
        UsageError: an option does not apply to the folder, or a shadow comes without the model that it belongs to.
        ModelFolderError, ShadowFolderError, TokenizerFilesError: a folder does not hold what is expected.
        VocabularyMismatchError, TokenizersDifferError: student and teacher read different ids.
        TextError, TrunkMismatchError, SepweightError, SplitError: see `read_evaluation_text` and `opened`.
    """
    if is_shadow(request.folder):
        return _evaluate_shadow(request)
    student, fast = load_model(request.folder)
    if request.layers or request.trunk:
        raise UsageError(f"layers and trunk are for shadows, and {request.folder} holds none")
    tokenizer = HuggingFaceTokenizer(fast)
    device = device_of(request.device)
    teacher = None
    if request.teacher is not None:
        model, other = load_model(request.teacher)
        refuse_other_tokens(tokenizer, HuggingFaceTokenizer(other))
        teacher = Subject(f"{request.teacher.name} (teacher)", model.to(device))
    models = [student, *([teacher.model] if teacher else [])]
    contexts = [found for each in models if (found := context_of(each)) is not None]
    text = read_evaluation_text(request.text, tokenizer, min(contexts, default=None), TextRecord.read(request.folder))
    subject = Subject(request.folder.name, student.to(device))
    return evaluate_model(
        subject,
        tokenizer,
        text,
        teacher,
        is_compared=request.is_compared,
        max_new_tokens=request.max_new_tokens,
    )


def is_shadow(folder: Path) -> bool:
    """Whether the folder's config.json says that it is a shadow."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("model_type") == ShadowConfig.model_type


def _evaluate_shadow(request: FolderRequest) -> Report:
    if request.teacher is None:
        raise UsageError(
            f"{request.folder} is a shadow, which is measured between bottom and top: name their sepweight directory "
            "as the teacher"
        )
    with opened(request.teacher, request.layers, request.trunk, request.trunk_wait) as trunk:
        shadow = load_shadow(request.folder, fingerprint=trunk.ends.fingerprint)
        tokenizer = create_tokenizer(str(request.teacher))
        text = read_evaluation_text(
            request.text, tokenizer, trunk.ends.bottom.context_length, TextRecord.read(request.folder)
        )
        size = None if trunk.part is None else size_of(trunk.part)
        subject = ShadowSubject(request.folder.name, shadow, trunk.ends, trunk.teacher, size)
        return evaluate_shadow(
            subject, tokenizer, text, is_compared=request.is_compared, max_new_tokens=request.max_new_tokens
        )
