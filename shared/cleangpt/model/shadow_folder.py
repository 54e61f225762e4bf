"""A shadow on disk: config.json, with the fingerprint of the ends that it fits, and model.safetensors."""

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from cleangpt.errors import ShadowFolderError, TrunkMismatchError
from cleangpt.model.shadow import Shadow, ShadowConfig
from cleangpt.reasons import reason_of
from cleangpt.writing import named_where_not_written, sync_files
from llm_sepweight.layout import STAGING_DIRECTORY
from llm_sepweight.replacing import replace_directory

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def export_shadow(shadow: Shadow, folder: Path | str) -> Path:
    """Writes the shadow to a temporary folder that then replaces `folder`, so that a kill leaves one of the two intact.

    Raises:
        ShadowFolderError: `folder` exists and holds something other than a shadow.
        NotWrittenError: the disk is full; `folder` is as before.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not _is_shadow(folder))):
        raise ShadowFolderError(f"{folder} exists and is not a shadow; give a new folder")
    # a folder is exchanged with one that lies in it
    partial = folder / STAGING_DIRECTORY if folder.exists() else folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with named_where_not_written(folder, "what it held before is intact"):
        try:
            shadow.save_pretrained(partial)
            sync_files(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    if folder.exists():
        replace_directory(partial, folder)
    else:
        partial.rename(folder)
    return folder


def load_shadow(folder: Path | str, *, fingerprint: str | None = None) -> Shadow:
    """Loads the shadow in evaluation mode.

    Args:
        fingerprint: that of the ends that it must fit; None accepts any.

    Raises:
        ShadowFolderError: files are missing or damaged.
        TrunkMismatchError: it was fitted for other ends.
    """
    folder = Path(folder)
    if not _is_shadow(folder):
        raise ShadowFolderError(f"{folder} has no {CONFIG_FILE} of a shadow; name a folder that export_shadow wrote")
    try:
        shadow = Shadow(ShadowConfig.from_pretrained(folder, local_files_only=True))
    except Exception as error:
        # a config with unexpected values can raise almost any exception
        reason = reason_of(error, folder)
        raise ShadowFolderError(f"{folder / CONFIG_FILE} cannot be read: {reason}; export the shadow again") from error
    found = shadow.config.fingerprint
    if fingerprint is not None and found != fingerprint:
        raise TrunkMismatchError(
            f"{folder} was fitted for [{found}], bottom and top are of [{fingerprint}]; fit a shadow for these"
        )
    file = folder / WEIGHTS_FILE
    try:
        shadow.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        # load_state_dict raises RuntimeError for other names or shapes
        raise ShadowFolderError(f"{file} cannot be read: {error}; export the shadow again") from error
    shadow.eval()
    return shadow


def _is_shadow(folder: Path) -> bool:
    try:
        found = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("model_type") == ShadowConfig.model_type
