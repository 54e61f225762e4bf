import re
from dataclasses import replace

import pytest

from llm_sepweight import FileEntry, Manifest, MissingSectionError
from splitlearn.errors import BadPlan
from splitlearn.model.plan import SplitPlan, fingerprint

SECTIONS = ("begin", *(f"mid.{layer:05d}" for layer in range(6)), "end")
MANIFEST = Manifest(
    format_version=1,
    model_name="small",
    config={},
    dtype="bfloat16",
    n_layers=6,
    files={name: FileEntry(f"{name}.safetensors", 1, "a" * 64) for name in SECTIONS},
    tied={},
)


def test_the_three_parts_cover_every_layer_once() -> None:
    plan = SplitPlan.parse("2-22", 24)
    assert (str(plan.bottom), str(plan.trunk), str(plan.top)) == ("b 0-2", "2-22", "22-24 e")


@pytest.mark.parametrize("layers", ["0-22", "2-24", "0-24"])
def test_an_end_without_layers_is_refused_because_the_trunk_could_read_the_tokens(layers: str) -> None:
    with pytest.raises(BadPlan, match="read off the tokens; give START-END with 1 <= START < END <= 23"):
        SplitPlan.parse(layers, 24)


@pytest.mark.parametrize(("n_layers", "layers"), [(3, "1-2"), (6, "1-5"), (24, "2-22"), (80, "6-74")])
def test_the_default_cut_keeps_a_twelfth_of_the_layers_at_each_end(n_layers: int, layers: str) -> None:
    assert SplitPlan.parse(None, n_layers).layers == layers


@pytest.mark.parametrize("layers", ["5-3", "3-3", "0-25", "24-30"])
def test_layers_that_do_not_exist_are_refused_with_the_number_there_are(layers: str) -> None:
    with pytest.raises(BadPlan, match="24 layers"):
        SplitPlan.parse(layers, 24)


@pytest.mark.parametrize("layers", ["", "2", "2-", "a-b", "2:22", "-1-3"])
def test_text_that_is_no_range_is_refused_with_an_example(layers: str) -> None:
    with pytest.raises(BadPlan, match="2-22"):
        SplitPlan.parse(layers, 24)


def test_a_model_without_a_middle_has_no_default_cut() -> None:
    with pytest.raises(BadPlan, match="no middle"):
        SplitPlan.parse(None, 2)


def test_the_fingerprint_names_model_cut_and_dtype_in_one_line() -> None:
    text = fingerprint(MANIFEST, SplitPlan(1, 5, 6), "bfloat16")
    assert re.fullmatch(r"small weights [0-9a-f]{16} layers 1-5 of 6 bfloat16", text)


@pytest.mark.parametrize("name", ["small", "of layers 2-3 of 4 it has more", ""])
def test_the_cut_is_read_off_a_fingerprint_whatever_the_model_s_name_is(name: str) -> None:
    plan = SplitPlan(1, 5, 6)
    assert SplitPlan.of_fingerprint(fingerprint(replace(MANIFEST, model_name=name), plan, "bfloat16")) == plan


@pytest.mark.parametrize("text", ["", "these ends", "small layers 1-5 of 6", "small layers 0-5 of 6 bfloat16"])
def test_text_that_is_no_fingerprint_names_no_cut(text: str) -> None:
    with pytest.raises(BadPlan):
        SplitPlan.of_fingerprint(text)


def with_other(section: str) -> Manifest:
    """The model with other weights in one section."""
    return replace(MANIFEST, files={**MANIFEST.files, section: FileEntry(f"{section}.safetensors", 1, "b" * 64)})


@pytest.mark.parametrize("section", ["begin", "mid.00000", "mid.00005", "end"])
def test_ends_of_another_training_have_the_fingerprint_of_the_trunk_between_them(section: str) -> None:
    plan = SplitPlan(1, 5, 6)
    assert fingerprint(with_other(section), plan, "bfloat16") == fingerprint(MANIFEST, plan, "bfloat16")


def test_a_manifest_without_the_trunk_s_layers_has_no_fingerprint() -> None:
    files = {name: entry for name, entry in MANIFEST.files.items() if name != "mid.00002"}
    with pytest.raises(MissingSectionError, match=r"mid\.00002"):
        fingerprint(replace(MANIFEST, files=files), SplitPlan(1, 5, 6), "bfloat16")


def test_fingerprints_differ_by_weights_config_cut_and_dtype() -> None:
    other_weights = with_other("mid.00004")
    other_config = replace(MANIFEST, config={"rope_theta": 500.0})
    plan = SplitPlan(1, 5, 6)
    texts = {
        fingerprint(MANIFEST, plan, "bfloat16"),
        fingerprint(other_weights, plan, "bfloat16"),
        fingerprint(other_config, plan, "bfloat16"),
        fingerprint(MANIFEST, SplitPlan(2, 5, 6), "bfloat16"),
        fingerprint(MANIFEST, plan, "float32"),
    }
    assert len(texts) == 5


def test_the_fingerprint_of_a_model_with_an_origin_says_what_it_was_made_of_and_not_what_is_here() -> None:
    origin = {"commit": "c0ffee" * 6 + "cafe", "headers": "ab" * 32, "conversion": "1"}
    plan = SplitPlan(1, 5, 6)
    named = replace(MANIFEST, origin=origin)
    text = fingerprint(named, plan, "bfloat16")
    match = r"small commit c0ffeec0ffee headers abababababab conversion 1 weights [0-9a-f]{16} layers 1-5 of 6 bfloat16"
    assert re.fullmatch(match, text)
    assert fingerprint(replace(named, files={}), plan, "bfloat16") == text
    assert fingerprint(MANIFEST, plan, "bfloat16") != text
    for changed in ({"commit": "0" * 40}, {"headers": "0" * 64}, {"conversion": "2"}):
        assert fingerprint(replace(MANIFEST, origin=origin | changed), plan, "bfloat16") != text
