"""Loads whole models from the folders that training and conversion write."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from cleangpt.errors import ModelFolderError
from cleangpt.reasons import broken_json, reason_of


def open_model(folder: Path) -> PreTrainedModel:
    """The whole model from a sepweight directory or a Hugging Face folder, in evaluation mode and its stored dtype.

    Raises:
        ModelFolderError: `folder` is neither, is a damaged Hugging Face folder, or has weights that are not finite.
        SepweightError, SplitError: the sepweight directory is incomplete, damaged or does not fit.
    """
    if folder.is_file():
        raise ModelFolderError(
            f"{folder} is a file; a model is a folder here, with its config and tokenizer beside the weights: name that"
        )
    if not folder.exists():
        raise ModelFolderError(
            f"there is no {folder}; name a directory that `cleangpt train` or `splitlearn convert` wrote"
        )
    if (folder / "manifest.json").exists():
        # imported here, because Hugging Face folders do not need it
        from splitlearn.checkpoints.load import load_part

        model: PreTrainedModel = load_part(folder, "f").model.eval()
        _make_tied_weights_one(model)
        _refuse_what_is_not_finite(model, folder)
        return model
    if not (folder / "config.json").exists():
        raise ModelFolderError(
            f"{folder} holds neither manifest.json (sepweight) nor config.json (Hugging Face); "
            "name a directory that `cleangpt train` or `splitlearn convert` wrote"
        )
    return open_hugging_face(folder)


def open_hugging_face(folder: Path) -> PreTrainedModel:
    """The whole model from a Hugging Face folder, in evaluation mode and its stored dtype. No code in it is run.

    Raises:
        ModelFolderError: the folder is damaged, its model type is unknown to transformers, it needs its own code, or
            weights are not finite.
    """
    if reason := broken_json(folder):
        raise ModelFolderError(f"{folder} holds no model that can be read: {reason}")
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        # bad files make transformers raise almost any exception
        raise ModelFolderError(f"{folder} holds no model that can be read: {reason_of(error, folder)}") from error
    if lacking := sorted(found["missing_keys"]):
        # transformers would initialize them with random numbers
        raise ModelFolderError(
            f"{folder} holds no model that can be read: {len(lacking)} of its weights are missing, the first is "
            f"{lacking[0]}; save the model again"
        )
    _refuse_what_is_not_finite(model, folder)
    model.eval()
    return model


def _make_tied_weights_one(model: torch.nn.Module) -> None:
    """Makes parameters that have their memory in common one parameter, which a cast or a training keeps tied."""
    known: dict[tuple[int, torch.Size], torch.nn.Parameter] = {}
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False, remove_duplicate=False):
            setattr(module, name, known.setdefault((value.data_ptr(), value.shape), value))


def _refuse_what_is_not_finite(model: torch.nn.Module, folder: Path) -> None:
    for name, value in model.named_parameters():
        if not value.isfinite().all():
            raise ModelFolderError(
                f"{folder} holds no model that can be used: {name} is infinite or NaN in places; take weights from "
                "before that"
            )
