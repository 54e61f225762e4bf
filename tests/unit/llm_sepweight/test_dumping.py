"""Writing directories: the writer's promises, a killed run, and `dump`."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from llm_sepweight import (
    BadDecisionError,
    BadSectionError,
    BadTensorError,
    InvalidManifestError,
    Manifest,
    OccupiedDirectoryError,
    SepweightWriter,
    TensorSource,
    UnfinishedDirectoryError,
    dump,
    load,
    verify,
)
from llm_sepweight.publishing import withdraw_manifest


def ones(name: str, *shape: int) -> TensorSource:
    return TensorSource.of(name, torch.ones(shape))


def commit(writer: SepweightWriter, n_layers: int = 1, **tied: str) -> Manifest:
    return writer.commit(model_name="", config={}, dtype="float32", n_layers=n_layers, tied=tied)


def broken_read() -> torch.Tensor:
    raise OSError("the shard went away")


def snapshot(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


def test_a_directory_loads_only_after_the_commit(tmp_path):
    writer = SepweightWriter(tmp_path / "deep" / "out")
    entry = writer.write_section("mid.00000", [ones("w", 2)])
    assert (tmp_path / "deep/out" / entry.file).stat().st_size == entry.size
    with pytest.raises(UnfinishedDirectoryError):
        load(tmp_path / "deep/out", "0-1")
    manifest = commit(writer)
    assert manifest.files == {"mid.00000": entry}
    assert Manifest.read(tmp_path / "deep/out") == manifest
    assert load(tmp_path / "deep/out", "0-1").mid[0]["w"].tolist() == [1, 1]
    assert sorted(snapshot(tmp_path / "deep/out")) == ["manifest.json", "mid.00000.safetensors"]


def test_progress_counts_the_bytes_of_the_file(tmp_path):
    pieces: list[int] = []
    entry = SepweightWriter(tmp_path).write_section("begin", [ones("w", 9)], pieces.append)
    assert sum(pieces) == entry.size


def test_a_finished_directory_is_refused_unharmed(model):
    before = snapshot(model.path)
    with pytest.raises(OccupiedDirectoryError, match="already holds a finished model"):
        SepweightWriter(model.path)
    assert snapshot(model.path) == before


def test_what_is_overwritten_stays_whole_until_the_commit(model):
    before = snapshot(model.path)
    writer = SepweightWriter(model.path, overwrite=True)
    writer.write_section("begin", [ones("new", 1)])
    assert before.items() <= snapshot(model.path).items()
    verify(model.path)
    commit(writer, n_layers=0)
    assert list(load(model.path, "b").to_dict()) == ["begin.new"]
    assert sorted(snapshot(model.path)) == ["begin.safetensors", "manifest.json"]


def test_foreign_files_survive_overwriting_and_cleaning(model):
    foreign = {"tokenizer.json": b"{}", "model.safetensors": b"x", "notes.tmp": b"y", "begin.pth": b"z"}
    for name, content in foreign.items():
        (model.path / name).write_bytes(content)
    (model.path / "mid.00009.safetensors.tmp").write_bytes(b"stale")
    (model.path / "folder" / "deep").mkdir(parents=True)
    (model.path / "folder" / "deep" / "file").write_bytes(b"a")
    (model.path / "folder" / "empty").mkdir()
    (model.path / "link").symlink_to("nowhere")
    writer = SepweightWriter(model.path, overwrite=True)
    writer.write_section("begin", [ones("new", 1)])
    commit(writer, n_layers=0)
    left = snapshot(model.path)
    assert {name: left[name] for name in left.keys() - {"begin.safetensors", "manifest.json"}} == foreign
    assert (model.path / "folder" / "deep" / "file").read_bytes() == b"a"
    assert (model.path / "folder" / "empty").is_dir()
    assert (model.path / "link").is_symlink()


def test_the_manifest_of_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "web app"}')
    for overwrite in (False, True):
        with pytest.raises(OccupiedDirectoryError, match="not made by this package"):
            SepweightWriter(tmp_path, overwrite=overwrite)
    assert snapshot(tmp_path) == {"manifest.json": b'{"name": "web app"}'}


@pytest.mark.parametrize("kind", ["a folder", "a link that leaves the directory", "too long", "not text"])
def test_what_is_no_manifest_is_neither_read_nor_overwritten(tmp_path, kind):
    out, manifest = tmp_path / "out", tmp_path / "out" / "manifest.json"
    out.mkdir()
    (tmp_path / "other.json").write_text('{"format_version": 1, "files": {}}')
    if kind == "a folder":
        manifest.mkdir()
    elif kind == "a link that leaves the directory":
        manifest.symlink_to(tmp_path / "other.json")
    elif kind == "too long":
        with manifest.open("wb") as file:
            file.write(b'{"format_version": 1, "files": {}}')
            file.truncate(2**40)
    else:
        manifest.write_bytes(b"\xff\xfe")
    with pytest.raises(OccupiedDirectoryError, match="not made by this package"):
        SepweightWriter(out, overwrite=True)
    assert [each.name for each in out.iterdir()] == ["manifest.json"]


def test_a_file_is_no_place_for_a_directory(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OccupiedDirectoryError, match="is a file"):
        SepweightWriter(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_killed_conversion_leaves_nothing_that_loads_and_the_next_one_succeeds(tmp_path):
    program = textwrap.dedent("""
        import os, sys, torch
        from llm_sepweight import SepweightWriter, TensorSource

        writer = SepweightWriter(sys.argv[1])
        writer.write_section("begin", [TensorSource.of("w", torch.ones(4))])
        killer = TensorSource("z", torch.float32, (4,), lambda: os._exit(9))
        writer.write_section("mid.00000", [TensorSource.of("a", torch.ones(4)), killer])
    """)
    child = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert child.returncode == 9
    assert sorted(snapshot(tmp_path)) == ["begin.safetensors", "mid.00000.safetensors.tmp"]
    for spec in ("f", "b", "0-1"):
        with pytest.raises(UnfinishedDirectoryError):
            load(tmp_path, spec)

    writer = SepweightWriter(tmp_path)
    assert not list(tmp_path.iterdir())
    writer.write_section("mid.00000", [ones("a", 4)])
    commit(writer)
    verify(tmp_path, "0-1")


def test_a_read_that_fails_leaves_no_half_file(tmp_path):
    writer = SepweightWriter(tmp_path)
    with pytest.raises(OSError, match="went away"):
        writer.write_section("begin", [ones("a", 4), TensorSource("b", torch.float32, (4,), broken_read)])
    assert not list(tmp_path.iterdir())


def test_a_section_is_written_once_and_before_the_commit(tmp_path):
    writer = SepweightWriter(tmp_path)
    writer.write_section("begin", [ones("w", 1)])
    with pytest.raises(BadSectionError, match="already written"):
        writer.write_section("begin", [ones("v", 1)])
    with pytest.raises(BadSectionError, match=r"mid\.7"):
        writer.write_section("mid.7", [ones("w", 1)])
    commit(writer)
    before = snapshot(tmp_path)
    with pytest.raises(BadSectionError, match="after the commit"):
        writer.write_section("end", [ones("w", 1)])
    with pytest.raises(BadSectionError, match="committed before"):
        commit(writer)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("tied", "message"),
    [
        ({"end/w": "begin/missing"}, "was not written"),
        ({"end/w": "mid.00000/w"}, "was not written"),
        ({"end/own": "begin/w"}, "also written itself"),
    ],
)
def test_a_tie_must_lead_from_a_free_place_to_a_written_one(tmp_path, tied, message):
    writer = SepweightWriter(tmp_path)
    writer.write_section("begin", [ones("w", 1)])
    writer.write_section("end", [ones("own", 1)])
    with pytest.raises(BadTensorError, match=message):
        commit(writer, **tied)
    assert not (tmp_path / "manifest.json").exists()


def test_a_depth_below_the_written_layers_is_refused(tmp_path):
    writer = SepweightWriter(tmp_path)
    writer.write_section("mid.00003", [ones("w", 1)])
    with pytest.raises(InvalidManifestError, match="past the last of 2 layers"):
        commit(writer, n_layers=2)
    assert not (tmp_path / "manifest.json").exists()


def test_dump_places_a_state_dict_as_the_decider_says(tmp_path, decider):
    state = {f"h.{layer}.mlp.w": torch.full((2, 2), float(layer)) for layer in range(12)}
    state |= {"embed.w": torch.ones(5), "head.w": torch.zeros(3)}
    dump(decider=decider, state_dict=state, out_path=str(tmp_path))
    loaded = load(tmp_path, "f")
    assert loaded.begin is not None
    assert loaded.end is not None
    assert torch.equal(loaded.begin["embed.w"], state["embed.w"])
    assert torch.equal(loaded.end["head.w"], state["head.w"])
    assert [loaded.mid[layer]["mlp.w"][0, 0].item() for layer in range(12)] == list(range(12))
    manifest = Manifest.read(tmp_path)
    assert (manifest.n_layers, manifest.dtype, manifest.config, manifest.tied) == (12, "float32", {}, {})


def test_dump_takes_begin_for_start(tmp_path):
    dump(decider=lambda key: ["begin", key], state_dict={"w": torch.ones(1)}, out_path=tmp_path)
    assert list(load(tmp_path, "b").to_dict()) == ["begin.w"]


def test_dump_writes_tensors_that_share_storage_each_on_its_own(tmp_path, decider):
    shared = torch.arange(6.0)
    dump(decider=decider, state_dict={"embed.w": shared, "embed.v": shared[2:4]}, out_path=tmp_path)
    begin = load(tmp_path, "b").begin
    assert begin is not None
    assert begin["embed.w"].tolist() == [0, 1, 2, 3, 4, 5]
    assert begin["embed.v"].tolist() == [2, 3]


def test_dumps_to_one_directory_combine(tmp_path, decider):
    dump(decider=decider, state_dict={"embed.w": torch.ones(1), "h.0.a": torch.ones(2)}, out_path=tmp_path)
    half = torch.full((2,), 2.0, dtype=torch.float16)
    dump(decider=decider, state_dict={"h.0.b": half, "h.2.a": half, "head.w": half}, out_path=tmp_path)
    dump(decider=decider, state_dict={"h.1.a": half, "h.0.a": torch.zeros(2)}, out_path=tmp_path)
    verify(tmp_path)
    assert {key: tensor.tolist() for key, tensor in load(tmp_path, "f").to_dict().items()} == {
        "begin.embed.w": [1],
        "mid.0.a": [0, 0],
        "mid.0.b": [2, 2],
        "mid.1.a": [2, 2],
        "mid.2.a": [2, 2],
        "end.head.w": [2, 2],
    }
    manifest = Manifest.read(tmp_path)
    assert (manifest.n_layers, manifest.dtype) == (3, "mixed")
    assert len(snapshot(tmp_path)) == 6


def test_what_is_loaded_may_be_dumped_back_to_where_it_came_from(model, decider):
    layer = load(model.path, "1-2").mid[1]["mlp.weight"]
    dump(decider=decider, state_dict={"h.1.mlp.weight": layer, "h.1.extra": layer}, out_path=model.path)
    verify(model.path)
    reloaded = load(model.path, "1-2").mid[1]
    assert torch.equal(reloaded["mlp.weight"], model.layers[1])
    assert torch.equal(reloaded["extra"], model.layers[1])
    assert Manifest.read(model.path).tied == model.manifest.tied
    assert Manifest.read(model.path).config == model.manifest.config


def test_a_tensor_dumped_to_a_tied_place_unties_it(model):
    own = torch.zeros(11, 4)
    dump(decider=lambda key: ["end", key], state_dict={"lm_head.weight": own}, out_path=model.path)
    end = load(model.path, "e").end
    assert end is not None
    assert torch.equal(end["lm_head.weight"], own)
    assert torch.equal(end["norm.weight"], model.norm)


def test_a_dump_that_fails_leaves_the_finished_directory_as_it_was(model, decider):
    before = snapshot(model.path)
    state = {"h.0.a": torch.ones(1), "h.1.a": torch.ones(1, device="meta")}
    with pytest.raises(BadTensorError):
        dump(decider=decider, state_dict=state, out_path=model.path)
    left = snapshot(model.path)
    assert {name: left[name] for name in before} == before
    dump(decider=decider, state_dict={"h.2.a": torch.ones(1)}, out_path=model.path)
    assert sorted(snapshot(model.path)) == sorted(before)


def test_dump_cleans_up_after_a_killed_run(model, decider):
    withdraw_manifest(model.path)
    dump(decider=decider, state_dict={"h.0.a": torch.ones(1)}, out_path=model.path)
    assert sorted(snapshot(model.path)) == ["manifest.json", "mid.00000.safetensors"]


@pytest.mark.parametrize(
    "decision",
    [
        None,
        [],
        "start",
        ["middle", "0", "w"],
        ["mid", "w"],
        ["mid", "x", "w"],
        ["mid", "-1", "w"],
        ["mid", "²", "w"],
        ["mid", 0, "w"],
        ["start", "0", "w"],
        ["end"],
        ["end", None],
    ],
)
def test_a_decision_that_names_no_place_is_refused_with_the_key(tmp_path, decision):
    with pytest.raises(BadDecisionError, match=r"for 'some\.key'; expected \['start', name\]"):
        dump(decider=lambda _: decision, state_dict={"some.key": torch.ones(1)}, out_path=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_what_is_added_adds_to_the_size_with_numbers_in_place_of_weights_of_4_bits(tmp_path):
    writer = SepweightWriter(tmp_path / "out")
    before = writer.write_section("mid.00000", [ones("w.int4_levels", 2)])
    sizes = {"mid.00000": before.size + 8}
    writer.commit(model_name="", config={}, dtype="float32", n_layers=1, tied={}, dequantized=sizes)
    dump(decider=lambda _: ["mid", "0", "more"], state_dict={"more": torch.ones(64)}, out_path=tmp_path / "out")
    added = Manifest.read(tmp_path / "out")
    assert added.dequantized == {"mid.00000": added.files["mid.00000"].size + 8}


def test_two_tensors_for_one_place_are_refused(tmp_path):
    with pytest.raises(BadTensorError, match="'b' is the second tensor for 'end/w'"):
        dump(
            decider=lambda _: ["end", "w"],
            state_dict={"a": torch.ones(1), "b": torch.ones(1)},
            out_path=tmp_path,
        )


def test_an_empty_state_dict_is_refused(tmp_path, decider):
    with pytest.raises(BadTensorError, match="empty"):
        dump(decider=decider, state_dict={}, out_path=tmp_path)
