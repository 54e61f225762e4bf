"""Loading parts: what comes, what it costs, and what is refused."""

import json
import shutil

import pytest
import torch

from llm_sepweight import (
    CorruptFileError,
    LayersOutOfRangeError,
    MalformedPartSpecError,
    Manifest,
    MissingFileError,
    MissingSectionError,
    PartSpec,
    StrayFileError,
    UnfinishedDirectoryError,
    UntrustedPickle,
    WrongDigestError,
    WrongSizeError,
    dump,
    load,
    verify,
)


class Exploit:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.fixture
def legacy(tmp_path):
    """A directory of pickles: begin, two layers, end."""
    torch.save({"w": torch.ones(3)}, tmp_path / "begin.pth")
    for layer in range(2):
        torch.save({"a": torch.full((2,), float(layer))}, tmp_path / f"mid.{layer:05d}.pth")
    torch.save({"h": torch.zeros(1)}, tmp_path / "end.pth")
    return tmp_path


def flip_last_byte(path):
    with path.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        ("b", {"begin.embed_tokens.weight"}),
        ("b 0-1", {"begin.embed_tokens.weight", "mid.0.mlp.weight"}),
        ("1-3", {"mid.1.mlp.weight", "mid.2.mlp.weight"}),
        ("2-3 e", {"mid.2.mlp.weight", "end.norm.weight", "end.lm_head.weight"}),
        ("0-1 2-3", {"mid.0.mlp.weight", "mid.2.mlp.weight"}),
    ],
)
def test_a_part_holds_just_what_it_names(model, spec, keys):
    part = load(model.path, spec)
    assert set(part.to_dict()) == keys
    assert (part.begin is not None) == ("b" in spec)
    assert (part.end is not None) == ("e" in spec)


def test_the_full_model_is_all_of_it_bit_for_bit(model):
    part = load(path=str(model.path), part_spec=PartSpec.parse("f"))
    assert part.begin is not None
    assert part.end is not None
    assert torch.equal(part.begin["embed_tokens.weight"], model.embed)
    assert torch.equal(part.end["norm.weight"], model.norm)
    assert list(part.mid) == [0, 1, 2]
    assert all(torch.equal(part.mid[layer]["mlp.weight"], model.layers[layer]) for layer in part.mid)


def test_tied_weights_are_one_tensor_where_both_ends_are_loaded(model):
    part = load(model.path, "b 1-2 e")
    assert part.begin is not None
    assert part.end is not None
    assert part.end["lm_head.weight"] is part.begin["embed_tokens.weight"]
    assert part.tied == {"end.lm_head.weight"}
    assert not load(model.path, "b 1-2").tied


def test_the_end_alone_gets_its_tied_weight_from_the_file_that_stores_it(model):
    part = load(model.path, "e")
    assert part.begin is None
    assert part.end is not None
    assert torch.equal(part.end["lm_head.weight"], model.embed)


def test_loading_maps_files_and_costs_no_memory_of_its_own(tmp_path, anonymous_memory):
    size = 64 * 2**20
    state = {"big": torch.ones(size // 2, dtype=torch.bfloat16)}
    dump(decider=lambda key: ["mid", "0", key], state_dict=state, out_path=tmp_path)
    del state
    before = anonymous_memory()
    big = load(tmp_path, "0-1").mid[0]["big"]
    # every page is touched, so that a lazy copy would show as well
    assert big.view(torch.int16).max() == 0x3F80
    assert anonymous_memory() - before < size // 8


def test_writing_to_a_loaded_tensor_leaves_the_file_alone(model):
    first = load(model.path, "0-1").mid[0]["mlp.weight"]
    first.zero_()
    assert torch.equal(load(model.path, "0-1").mid[0]["mlp.weight"], model.layers[0])
    verify(model.path)


def test_a_loaded_part_outlives_the_directory(model):
    part = load(model.path, "0-1")
    shutil.rmtree(model.path)
    assert torch.equal(part.mid[0]["mlp.weight"], model.layers[0])


def test_a_missing_file_is_named_with_its_expected_size(model):
    (model.path / "mid.00001.safetensors").unlink()
    size = model.manifest.files["mid.00001"].size
    with pytest.raises(MissingFileError, match=rf"mid\.00001\.safetensors: expected {size} bytes, found no"):
        load(model.path, "0-2")
    assert list(load(model.path, "0-1").mid) == [0]


@pytest.mark.parametrize("change", [-1, 1])
def test_a_truncated_file_is_refused_with_expected_and_found_size(model, change):
    file = model.path / "mid.00001.safetensors"
    size = model.manifest.files["mid.00001"].size
    file.write_bytes((file.read_bytes() + b"x")[: size + change])
    for act in (load, verify):
        with pytest.raises(WrongSizeError, match=rf"mid\.00001\.safetensors: .*{size} bytes.*{size + change}"):
            act(model.path, "f")
    load(model.path, "0-1")


def test_a_file_that_is_a_link_out_of_its_directory_is_refused_and_one_inside_is_read(model, tmp_path):
    file = model.path / "mid.00001.safetensors"
    outside = file.rename(tmp_path / "elsewhere")
    file.symlink_to(outside)
    for act in (load, verify):
        with pytest.raises(StrayFileError, match=r"mid\.00001\.safetensors: is a link that leaves"):
            act(model.path, "f")
    file.unlink()
    outside.rename(model.path / "data")
    file.symlink_to("data")
    assert torch.equal(load(model.path, "1-2").mid[1]["mlp.weight"], model.layers[1])


def test_a_missing_home_of_a_tied_weight_is_named(model):
    (model.path / "begin.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"begin\.safetensors"):
        load(model.path, "e")


def test_a_home_without_the_tied_tensor_is_named(model):
    manifest = json.loads((model.path / "manifest.json").read_text())
    manifest["tied"] = {"end/lm_head.weight": "begin/wte.weight"}
    del manifest["sha256"]
    (model.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptFileError, match=r"begin\.safetensors: lacks 'wte\.weight'"):
        load(model.path, "e")


def test_a_corrupt_header_names_the_file(model):
    file = model.path / "end.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[:8] + b"#" * 8 + raw[16:])
    with pytest.raises(CorruptFileError, match=r"end\.safetensors: not a safetensors file") as caught:
        load(model.path, "e")
    assert caught.value.file == file


def test_verify_finds_one_flipped_bit_and_names_both_digests(model):
    flip_last_byte(model.path / "mid.00002.safetensors")
    with pytest.raises(WrongDigestError, match=r"mid\.00002\.safetensors: expected sha256") as caught:
        verify(model.path)
    assert caught.value.expected == model.manifest.files["mid.00002"].sha256
    assert caught.value.found != caught.value.expected
    verify(model.path, "b 0-2 e")


def test_verify_reports_every_byte(model):
    pieces: list[int] = []
    verify(model.path, "f", pieces.append)
    assert sum(pieces) == sum(entry.size for entry in model.manifest.files.values())


def test_verify_checks_the_file_that_stores_a_tied_weight(model):
    flip_last_byte(model.path / "begin.safetensors")
    with pytest.raises(WrongDigestError, match=r"begin\.safetensors"):
        verify(model.path, "e")


def test_layers_past_the_end_are_refused_with_the_number_of_layers(model):
    for act in (load, verify):
        with pytest.raises(LayersOutOfRangeError, match="3 layers"):
            act(model.path, "2-4")


def test_a_bad_part_spec_is_refused(model):
    with pytest.raises(MalformedPartSpecError):
        load(model.path, "0..3")


def test_a_model_with_a_gap_does_not_load_as_a_whole(tmp_path, decider):
    state = {"embed.w": torch.ones(1), "h.0.a": torch.ones(1), "h.2.a": torch.ones(1), "head": torch.ones(1)}
    dump(decider=decider, state_dict=state, out_path=tmp_path)
    with pytest.raises(MissingSectionError, match=r"mid\.00001"):
        load(tmp_path, "f")


def test_a_directory_of_other_things_is_not_finished(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UnfinishedDirectoryError):
            load(path, "f")


def test_a_directory_of_pickles_loads(legacy):
    assert {key: tensor.tolist() for key, tensor in load(legacy, "f").to_dict().items()} == {
        "begin.w": [1, 1, 1],
        "mid.0.a": [0, 0],
        "mid.1.a": [1, 1],
        "end.h": [0],
    }
    assert list(load(legacy, "1-2 e").to_dict()) == ["mid.1.a", "end.h"]


def test_a_directory_of_pickles_knows_its_depth_and_its_gaps(legacy):
    with pytest.raises(LayersOutOfRangeError, match="2 layers"):
        load(legacy, "0-3")
    (legacy / "mid.00000.pth").unlink()
    with pytest.raises(MissingFileError, match=r"mid\.00000\.pth"):
        load(legacy, "f")


def test_pickles_are_mapped(tmp_path, anonymous_memory):
    size = 64 * 2**20
    torch.save({"a": torch.ones(size // 4)}, tmp_path / "mid.00000.pth")
    before = anonymous_memory()
    tensor = load(tmp_path, "0-1").mid[0]["a"]
    assert tensor.view(torch.int32).max() == 0x3F800000
    assert anonymous_memory() - before < size // 8


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(legacy, capfd):
    torch.save({"a": torch.ones(1), "b": Exploit()}, legacy / "mid.00001.pth")
    with pytest.raises(UntrustedPickle, match=r"mid\.00001\.pth.*print.*Safe ways out") as caught:
        load(legacy, "f")
    assert caught.value.unsafe == ("builtins.print",)
    assert "never" not in capfd.readouterr().out
    assert list(load(legacy, "0-1").mid) == [0]


def test_a_manifest_counts_more_than_pickles_beside_it(legacy, decider):
    dump(decider=decider, state_dict={"embed.new": torch.ones(1)}, out_path=legacy)
    assert Manifest.read(legacy).files.keys() == {"begin"}
    assert list(load(legacy, "b").to_dict()) == ["begin.embed.new"]
