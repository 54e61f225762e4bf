"""Whole models from the folders that training and conversion write."""

from pathlib import Path
from pickle import UnpicklingError

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from cleangpt.errors import ModelFolderError


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
        from splitlearn.loading import load_part

        return load_part(folder, "f").model.eval()
    if not (folder / "config.json").exists():
        raise ModelFolderError(
            f"{folder} holds neither manifest.json (sepweight) nor config.json (Hugging Face); "
            "name a directory that `cleangpt train` or `splitlearn convert` wrote"
        )
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, SafetensorError, RuntimeError, StrictDataclassError, UnpicklingError) as error:
        # RuntimeError is what from_pretrained raises for weights of other shapes
        raise ModelFolderError(f"{folder} holds no model that can be read: {error}") from error
    if lacking := sorted(found["missing_keys"]):
        # which would begin as random numbers
        raise ModelFolderError(
            f"{folder} holds no model that can be read: {len(lacking)} of its weights are missing, the first is "
            f"{lacking[0]}; save the model again"
        )
    return model.eval()
