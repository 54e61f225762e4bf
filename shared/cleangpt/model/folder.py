"""Whole models from the folders that training and conversion write."""

from pathlib import Path

from transformers import AutoModelForCausalLM, PreTrainedModel

from cleangpt.errors import ModelFolderError
from cleangpt.reasons import broken_json, reason_of


def open_model(folder: Path) -> PreTrainedModel:
    """The whole model of a sepweight directory or a Hugging Face folder, in evaluation mode.

    It comes in the dtype that it is stored in.

    Raises:
        ModelFolderError: `folder` is neither, or a Hugging Face folder that is damaged.
        SepweightError, SplitError: the sepweight directory is incomplete, damaged or does not fit.
    """
    if folder.is_file():
        raise ModelFolderError(
            f"{folder} is a file; a model is a folder here, with its config and tokenizer beside the weights: name that"
        )
    if (folder / "manifest.json").exists():
        # a Hugging Face folder needs nothing of it
        from splitlearn.checkpoints.load import load_part

        return load_part(folder, "f").model.eval()
    if not (folder / "config.json").exists():
        raise ModelFolderError(
            f"{folder} holds neither manifest.json (sepweight) nor config.json (Hugging Face); "
            "name a directory that `cleangpt train` or `splitlearn convert` wrote"
        )
    return open_hugging_face(folder)


def open_hugging_face(folder: Path) -> PreTrainedModel:
    """The whole model of a Hugging Face folder, in evaluation mode and its own dtype. No code in the folder is run.

    Raises:
        ModelFolderError: it is damaged, of a type that transformers does not have, or brings code to read it with.
    """
    if reason := broken_json(folder):
        raise ModelFolderError(f"{folder} holds no model that can be read: {reason}")
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        # there is hardly an exception that transformers does not raise for what may stand in such files
        raise ModelFolderError(f"{folder} holds no model that can be read: {reason_of(error, folder)}") from error
    if lacking := sorted(found["missing_keys"]):
        # which would begin as random numbers
        raise ModelFolderError(
            f"{folder} holds no model that can be read: {len(lacking)} of its weights are missing, the first is "
            f"{lacking[0]}; save the model again"
        )
    model.eval()
    return model
