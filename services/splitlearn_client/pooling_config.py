"""How a text's hidden states become its embedding: what a checkpoint says in the files of sentence-transformers."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

from splitlearn_client.errors import BadModelFiles, NoEmbeddings

J = TypeVar("J", dict[str, Any], list[Any])

Mode = Literal["cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean"]
"""By sentence-transformers' names: the first row, the last one, the largest numbers or the mean of all rows, their sum
divided by the root of their count, or the mean of rows that weigh the more the later they come."""

MODULES: Final = "modules.json"
PROMPTS: Final = "config_sentence_transformers.json"
_CONFIG: Final = "config.json"
# what folders are called; no other file is read, whatever modules.json names
_FOLDER: Final = re.compile(r"[0-9]{1,3}_Pooling", re.ASCII)
# how older versions name the modes: one flag for each
_FLAGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_HINT: Final = "start the client with --pooling to choose one, without what else the model names"


@dataclass(frozen=True)
class PoolingConfig:
    """What an embedding is made of.

    Attributes:
        is_normalized: whether it has length 1.
        prompt: comes before each text.
        includes_prompt: whether the rows of `prompt` count.
    """

    mode: Mode = "lasttoken"
    is_normalized: bool = True
    prompt: str = ""
    includes_prompt: bool = True


def read_pooling(weights: Path, choice: Mode | Literal["auto"]) -> PoolingConfig | NoEmbeddings:
    """What the model's modules.json says; without one the last token, normalised.

    Args:
        choice: "auto", or the mode to take in place of the model's, whose modules of other kinds are left out then.

    Returns:
        The config, or why the model has no embeddings here: it names what is not supported.

    Raises:
        BadModelFiles: a file is not what it should be.
    """
    if not (weights / MODULES).exists():
        return PoolingConfig() if choice == "auto" else PoolingConfig(choice)
    modules = [_module(weights / MODULES, each) for each in _json(weights / MODULES, list)]
    kinds = [kind for kind, _ in modules]
    prompt = _default_prompt(weights / PROMPTS)
    pooling = next((path for kind, path in modules if kind == "Pooling"), None)
    fields = {} if pooling is None else _pooling_fields(weights, pooling)
    mode = _mode(kinds, fields) if choice == "auto" else choice
    if isinstance(mode, NoEmbeddings):
        return mode
    includes = fields.get("include_prompt", True)
    return PoolingConfig(mode, "Normalize" in kinds, prompt, includes is not False)


def _module(file: Path, listed: Any) -> tuple[str, str]:
    """Kind and folder of a module. Its type is a class with the module's path, which differs between versions."""
    if not isinstance(listed, dict) or not isinstance(listed.get("type"), str):
        raise BadModelFiles(f"{file} lists a module without a type; correct or remove it")
    return listed["type"].rpartition(".")[2], str(listed.get("path", ""))


def _pooling_fields(weights: Path, folder: str) -> Mapping[str, Any]:
    if _FOLDER.fullmatch(folder) is None:
        raise BadModelFiles(f"{weights / MODULES} names {folder[:80]!r}, where a pooling lies in N_Pooling; correct it")
    return _json(weights / folder / _CONFIG, dict)


def _mode(kinds: Iterable[str], fields: Mapping[str, Any]) -> Mode | NoEmbeddings:
    others = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if others:
        return NoEmbeddings(f"this model's embeddings need {', '.join(others)[:200]}, which is not supported; {_HINT}")
    named = fields.get("pooling_mode")
    if named is None:
        # as there, the mean where nothing is set
        named = [mode for flag, mode in _FLAGS.items() if fields.get(flag)] or "mean"
    found = named if isinstance(named, list) else [named]
    known = [mode for mode in get_args(Mode) if found == [mode]]
    if not known:
        return NoEmbeddings(
            f"this model's embeddings need the pooling {str(found)[:200]}, not one mode of ours; {_HINT}"
        )
    mode: Mode = known[0]
    return mode


def _default_prompt(file: Path) -> str:
    """What sentence-transformers writes before each text unless it is told otherwise; mostly nothing."""
    if not file.exists():
        return ""
    fields = _json(file, dict)
    name, prompts = fields.get("default_prompt_name"), fields.get("prompts") or {}
    if name is None:
        return ""
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    if not isinstance(prompt, str):
        raise BadModelFiles(f"{file} has no prompt that is called {str(name)[:80]!r}; correct the file")
    return prompt


def _json(file: Path, form: type[J]) -> J:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadModelFiles(f"{file} is missing, and {MODULES} names it; convert the model again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadModelFiles(f"{file} cannot be read as JSON ({error}); correct or remove it") from error
    if not isinstance(found, form):
        raise BadModelFiles(f"{file} is not a JSON {'object' if form is dict else 'list'}; correct or remove it")
    return found
