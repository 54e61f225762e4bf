"""A model of which only bottom and top were trained again: it works with the trunk of the model that it comes from."""

from collections.abc import Mapping
from typing import Final

from llm_sepweight import FileEntry, Manifest, PartSpec
from splitlearn.errors import BadCheckpoint
from splitlearn.model.layout import config_from_dict

_FIELDS_OF_A_FILE: Final = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version"})
"""What a config says of whoever wrote it, and not of the model; fields that begin with _ do so, too."""


def check_shape(source: str, config: Mapping[str, object], trunk_of: Manifest) -> None:
    """Raises BadCheckpoint if `source` has another config than the model that it is said to come from.

    Also if that one is known by its origin, as models by their names on the hub are: no converted model fits its trunk.
    """
    if trunk_of.origin is not None:
        raise BadCheckpoint(
            f"{trunk_of.model_name} is known by its commit, which its trunks compare; convert it, and let them serve "
            "the converted directory"
        )
    ours, theirs = (config_from_dict(dict(each)).to_dict() for each in (config, trunk_of.config))
    fields = {name for name in ours.keys() | theirs.keys() if not name.startswith("_")} - _FIELDS_OF_A_FILE
    if other := sorted(name for name in fields if ours.get(name) != theirs.get(name)):
        raise BadCheckpoint(
            f"{source} is another model than {trunk_of.model_name}: their configs differ in {', '.join(other)}; name "
            "the model that it was trained from"
        )


def shared_layers(files: Mapping[str, FileEntry], trunk_of: Manifest) -> PartSpec:
    """The layers whose files are those of the other model to the byte.

    Raises:
        BadCheckpoint: there are none.
    """
    layers = [name for name in files if PartSpec.of_sections([name]).layers and files[name] == trunk_of.files.get(name)]
    if not layers:
        raise BadCheckpoint(
            f"no layer is that of {trunk_of.model_name}, so its trunk cannot serve this model; train with "
            "--freeze-layers, and write the dtype that it has"
        )
    return PartSpec.of_sections(layers)
