import pytest

from splitlearn.hub.listing import Hub, HubFile, Listing, is_tokenizers
from splitlearn.hub.names import ModelName
from support.loopback_hub import LoopbackHub


def listing_of(*names: str) -> Listing:
    return Listing("c" * 40, {name: HubFile(name, 1, "e") for name in names})


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "additional_chat_templates/rag.jinja",
        "modules.json",
        "1_Pooling/config.json",
        "config_sentence_transformers.json",
    ],
)
def test_what_belongs_to_a_tokenizer_is_wanted_with_it_alone(name: str) -> None:
    listing = listing_of(name, "config.json")
    assert [each.name for each in listing.beside(tokenizer=False)] == ["config.json"]
    assert {each.name for each in listing.beside(tokenizer=True)} == {name, "config.json"}


def test_the_files_of_other_models_in_subfolders_and_weights_are_never_beside() -> None:
    others = (
        "onnx/config.json",
        "onnx/1_Pooling/config.json",
        "onnx/tokenizer.json",
        "a.safetensors",
        "pytorch_model.bin.index.json",
        "README.md",
    )
    assert listing_of(*others).beside(tokenizer=True) == []
    assert not is_tokenizers("text_encoder/tokenizer.json")


def test_what_says_that_weights_are_quantised_or_in_shards_is_always_beside() -> None:
    names = {"quantize_config.json", "hf_quant_config.json", "model.safetensors.index.json", "adapter_config.json"}
    assert {each.name for each in listing_of(*names).beside(tokenizer=False)} == names


def test_a_listing_is_read_back_as_it_was_kept() -> None:
    listing = listing_of("config.json", "a.safetensors")
    assert Listing.from_json(listing.to_json()) == listing


def test_a_weight_file_is_known_by_its_sha256_and_a_small_one_by_gits_id(served: LoopbackHub, hub: Hub) -> None:
    served.add_files("org/a", {"config.json": b"{}", "model.safetensors": b"x"})
    files = hub.list(ModelName("org/a")).files
    assert files["config.json"] == HubFile("config.json", 2, "9e26dfeeb6e641a33dae4961196235bdb965b21b")
    assert (files["model.safetensors"].size, len(files["model.safetensors"].etag)) == (1, 64)
