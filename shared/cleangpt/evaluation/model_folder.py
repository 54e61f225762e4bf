"""Whole models from the folders that training and conversion write."""

from pathlib import Path

from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from cleangpt.errors import ModelFolderError
from cleangpt.tokenizers import load_tokenizer


def load_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The whole model and its tokenizer, from a sepweight directory or a Hugging Face folder.

    The model comes in the dtype that it is stored in. Raises ModelFolderError where `folder` is neither.
    """
    if (folder / "manifest.json").exists():
        from splitlearn.loading import load_part

        model = load_part(folder, "f").model
    elif (folder / "config.json").exists():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
    else:
        raise ModelFolderError(
            f"{folder} holds neither manifest.json (sepweight) nor config.json (Hugging Face); "
            "name a directory that `cleangpt train` or `splitlearn convert` wrote"
        )
    return model.eval(), load_tokenizer(folder)
