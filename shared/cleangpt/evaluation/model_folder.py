"""Whole models from the folders that training and conversion write."""

from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

# registers the models of cleangpt with the Auto classes
import cleangpt.model  # noqa: F401
from cleangpt.errors import ModelFolderError
from cleangpt.tokenizers import load_tokenizer


def load_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The whole model and its tokenizer, from a sepweight directory or a Hugging Face folder.

    The model comes in the dtype that it is stored in. Raises ModelFolderError where `folder` is neither,
    or is damaged.
    """
    if folder.is_file():
        raise ModelFolderError(
            f"{folder} is a file; a model is a folder here, with its config and tokenizer beside the weights: name that"
        )
    if (folder / "manifest.json").exists():
        from splitlearn.loading import load_part

        model = load_part(folder, "f").model
    elif (folder / "config.json").exists():
        try:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelFolderError(f"{folder} holds no model that can be read: {error}") from error
    else:
        raise ModelFolderError(
            f"{folder} holds neither manifest.json (sepweight) nor config.json (Hugging Face); "
            "name a directory that `cleangpt train` or `splitlearn convert` wrote"
        )
    return model.eval(), load_tokenizer(folder)
