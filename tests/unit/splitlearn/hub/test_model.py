"""Parts of a named model: exactly their bytes, the same files as a conversion makes, one identity."""

import threading
import weakref
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from llm_sepweight import LayersOutOfRangeError, Manifest, NoSpaceError, PartSpec, load
from splitlearn.checkpoints.convert import prepare
from splitlearn.errors import BadDownload, FetchStopped, HubUnreachable, NotCached
from splitlearn.hub import model as model_module
from splitlearn.hub import spool
from splitlearn.hub.headers import Located
from splitlearn.hub.listing import Hub
from splitlearn.hub.names import ModelName
from splitlearn.hub.opening import open_named
from splitlearn.hub.patience import Patience
from splitlearn.hub.spool import Spool
from splitlearn.hub.stopping import Stop
from splitlearn.hub.store import Cache
from support.loopback_hub import Asked, Fault, LoopbackHub
from support.tiny_models import ARCHITECTURES, random_model, save_checkpoint, tiny_config

TINY = ModelName("org/tiny")
TRUNK = PartSpec.parse("1-4")
ENDS = [PartSpec.parse("b 0-1"), PartSpec.parse("4-5 e")]
WHOLE = [PartSpec.parse("f")]


def converted(checkpoint: Path, out: Path) -> Path:
    prepare(str(checkpoint)).write(out)
    return out


def section_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.safetensors")}


def bytes_in(folder: Path, *prefixes: str) -> dict[str, set[int]]:
    """By file: where the tensors are whose names begin so, as the library of the format finds them."""
    found: dict[str, set[int]] = {}
    for file in folder.glob("*.safetensors"):
        data = file.read_bytes()
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - not a dict
                raw = opened.get_tensor(key).contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                if key.startswith(prefixes):
                    assert data.count(raw) == 1
                    at = data.index(raw)
                    found.setdefault(file.name, set()).update(range(at, at + len(raw)))
    return found


def test_a_trunk_fetches_exactly_its_layers_bytes_and_each_once(
    served: LoopbackHub, hub: Hub, cache: Cache, shards: Path
) -> None:
    served.add("org/tiny", shards)
    model = open_named(TINY, cache, hub=hub, piece_bytes=5000)
    told: list[int] = []
    model.fetch([TRUNK], bar=counting(told))
    wanted = bytes_in(shards, "model.layers.1.", "model.layers.2.", "model.layers.3.")
    assert served.tensor_bytes() == wanted
    size = sum(map(len, wanted.values()))
    assert (served.count_tensor_bytes(), sum(told)) == (size, size)
    assert set(section_files(model.directory)) == {f"mid.0000{i}.safetensors" for i in (1, 2, 3)}


def test_a_client_fetches_embeddings_ends_and_head_and_the_rest_later_what_is_missing(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path
) -> None:
    served.add("org/tiny", checkpoint)
    open_named(TINY, cache, hub=hub).fetch(ENDS)
    ends = bytes_in(checkpoint, "model.embed", "model.norm", "lm_head", "model.layers.0.", "model.layers.4.")
    assert served.tensor_bytes() == ends
    served.forget()
    open_named(TINY, cache, hub=hub).fetch([PartSpec.parse("0-3")])
    assert served.tensor_bytes() == bytes_in(checkpoint, "model.layers.1.", "model.layers.2.")
    served.forget()
    open_named(TINY, cache, hub=hub).fetch([PartSpec.parse("b 0-3 4-5 e")])
    assert served.tensor_bytes() == {}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_architecture_is_converted_as_from_a_folder(
    served: LoopbackHub, hub: Hub, cache: Cache, tmp_path: Path, model_type: str
) -> None:
    folder = save_checkpoint(tmp_path / "tiny", random_model(tiny_config(model_type)))
    served.add("org/tiny", folder)
    model = open_named(TINY, cache, hub=hub, piece_bytes=10_000)
    for part in ([TRUNK], ENDS):
        model.fetch(part)
    assert section_files(model.directory) == section_files(converted(folder, tmp_path / "converted"))
    assert served.count_tensor_bytes() == sum(map(len, served.tensor_bytes().values()))


def test_both_ends_have_one_identity_whatever_they_fetched_and_a_conversion_another(
    served: LoopbackHub, hub: Hub, tmp_path: Path, checkpoint: Path, shards: Path
) -> None:
    def of(name: str, folder: str, parts: list[PartSpec]) -> str:
        model = open_named(ModelName("org/tiny", name), Cache(tmp_path / folder), hub=hub)
        model.fetch(parts)
        return Manifest.read(model.directory).digest

    served.add("org/tiny", checkpoint)
    served.add("org/tiny", shards, revision="other")
    trunk, client = of("main", "a", [TRUNK]), of("main", "b", ENDS)
    assert trunk == client
    assert of("other", "a", [TRUNK]) != trunk
    assert Manifest.read(converted(checkpoint, tmp_path / "c")).digest != trunk


def test_another_conversion_is_another_model_in_another_place(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.add("org/tiny", checkpoint)
    before = open_named(TINY, cache, hub=hub).directory
    for module in (model_module, __import__("splitlearn.hub.store", fromlist=["store"])):
        monkeypatch.setattr(module, "CONVERSION", "2")
    after = open_named(TINY, cache, hub=hub).directory
    assert before != after
    assert Manifest.read(before).digest != Manifest.read(after).digest


def test_a_tied_head_is_fetched_once_as_the_embeddings(
    served: LoopbackHub, hub: Hub, cache: Cache, tmp_path: Path
) -> None:
    folder = save_checkpoint(tmp_path / "tiny", random_model(tiny_config("qwen2", tie_word_embeddings=True)))
    served.add("org/tiny", folder)
    model = open_named(TINY, cache, hub=hub)
    model.fetch([PartSpec.parse("4-5 e")])
    assert served.tensor_bytes() == bytes_in(folder, "model.embed", "model.norm", "model.layers.4.")
    loaded = load(model.directory, "b 4-5 e")
    assert loaded.begin is not None
    assert loaded.end is not None
    assert loaded.end["lm_head.weight"] is loaded.begin["embed_tokens.weight"]


def test_where_both_of_a_tie_are_stored_a_trunk_reads_neither_and_the_ends_have_both(
    served: LoopbackHub, hub: Hub, cache: Cache, tmp_path: Path
) -> None:
    folder = save_checkpoint(tmp_path / "tiny", random_model(tiny_config("qwen2", tie_word_embeddings=True)))
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    served.add("org/tiny", folder)
    model = open_named(TINY, cache, hub=hub)
    model.fetch([TRUNK])
    assert served.count_tensor_bytes() == sum(t.nbytes for key, t in tensors.items() if key[:14] in LAYERS)
    model.fetch(ENDS)
    loaded = load(model.directory, "b 4-5 e")
    assert loaded.begin is not None
    assert loaded.end is not None
    assert torch.equal(loaded.end["lm_head.weight"], loaded.begin["embed_tokens.weight"])


LAYERS = tuple(f"model.layers.{i}" for i in (1, 2, 3))


def test_what_the_model_has_no_place_for_is_not_fetched(
    served: LoopbackHub, hub: Hub, cache: Cache, tmp_path: Path, tiny_llama: PreTrainedModel
) -> None:
    folder = save_checkpoint(tmp_path / "tiny", tiny_llama)
    tensors = load_file(folder / "model.safetensors")
    own = sum(tensor.nbytes for tensor in tensors.values())
    save_file({**tensors, "vision.weight": torch.ones(500)}, folder / "model.safetensors", metadata={"format": "pt"})
    served.add("org/tiny", folder)
    open_named(TINY, cache, hub=hub).fetch(WHOLE)
    assert served.count_tensor_bytes() == own


@pytest.mark.parametrize("cut_after", [1, 977, 4096])
def test_lines_that_break_again_and_again_make_the_same_files(
    served: LoopbackHub, hub: Hub, cache: Cache, tmp_path: Path, checkpoint: Path, cut_after: int
) -> None:
    served.add("org/tiny", checkpoint)
    breaks = threading.BoundedSemaphore(150)

    def script(asked: Asked) -> Fault | None:
        if asked.server == "storage" and breaks.acquire(blocking=False):
            return Fault(cut_after=cut_after)
        return None

    served.script = script
    model = open_named(TINY, cache, hub=hub, piece_bytes=30_000)
    model.fetch(WHOLE)
    assert section_files(model.directory) == section_files(converted(checkpoint, tmp_path / "converted"))
    assert served.count_tensor_bytes() == sum(map(len, served.tensor_bytes().values()))


def test_a_fetch_that_failed_goes_on_later_with_what_it_has(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.add("org/tiny", checkpoint)
    model = open_named(TINY, cache, hub=hub, piece_bytes=20_000)
    monkeypatch.setattr(Patience, "wait", lambda *_: None)
    left = iter(range(12))
    served.script = lambda asked: Fault(status=503) if next(left, None) is None else None
    with pytest.raises(HubUnreachable, match="what is there is kept, try again"):
        model.fetch(WHOLE)
    first = served.tensor_bytes()
    assert first
    served.script = lambda _: None
    open_named(TINY, cache, hub=hub, piece_bytes=20_000).fetch(WHOLE)
    # at most those that were under way when one failed are asked for again: fewer than had come before
    again = served.count_tensor_bytes() - sum(map(len, served.tensor_bytes().values()))
    assert 0 <= again <= (spool._AT_ONCE - 1) * 20_000 < 12 * 20_000
    assert not list(cache.root.rglob("*.part"))
    assert not any(cache.root.glob("models/*/*/*/*/pieces/*"))


def test_a_file_that_was_replaced_under_its_commit_is_refused_and_nothing_of_it_is_kept(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path
) -> None:
    commit = served.add("org/tiny", checkpoint)
    model = open_named(TINY, cache, hub=hub)
    data = served.repos["org/tiny"].commits[commit]["model.safetensors"]
    served.repos["org/tiny"].commits[commit]["model.safetensors"] = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(BadDownload, match="other bytes"):
        model.fetch(WHOLE)
    assert section_files(model.directory) == {}


def test_another_header_under_the_same_commit_is_not_the_model_in_the_cache(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, tiny_llama: PreTrainedModel, tmp_path: Path
) -> None:
    commit = served.add("org/tiny", checkpoint)
    open_named(TINY, cache, hub=hub)
    other = tmp_path / "other.safetensors"
    save_file(load_file(checkpoint / "model.safetensors"), other, metadata={"format": "pt", "by": "another"})
    served.repos["org/tiny"].commits[commit]["model.safetensors"] = other.read_bytes()
    for header in cache.folder("org/tiny", commit).headers.iterdir():
        header.unlink()
    with pytest.raises(BadDownload, match="`splitlearn cache rm org/tiny` removes it"):
        open_named(TINY, cache, hub=hub)


def test_offline_what_is_there_is_served_and_what_is_not_is_named(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.add("org/tiny", checkpoint)
    open_named(TINY, cache, hub=hub).fetch([TRUNK])
    served.forget()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = open_named(TINY, cache, hub=hub)
    model.fetch([TRUNK])
    with pytest.raises(NotCached, match=r"org/tiny at [0-9a-f]{12}: b 0-1 4-5 e is not in the cache .*HF_HUB_OFFLINE"):
        model.fetch(WHOLE)
    assert served.asked == []


def test_a_section_whose_file_is_gone_or_cut_is_made_again(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path
) -> None:
    served.add("org/tiny", checkpoint)
    model = open_named(TINY, cache, hub=hub)
    model.fetch(WHOLE)
    before = section_files(model.directory)
    (model.directory / "mid.00001.safetensors").unlink()
    (model.directory / "end.safetensors").write_bytes(b"cut")
    assert model.missing(WHOLE) == ["mid.00001", "end"]
    model.fetch(WHOLE)
    assert section_files(model.directory) == before


def test_layers_that_the_model_does_not_have_are_refused(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path
) -> None:
    served.add("org/tiny", checkpoint)
    with pytest.raises(LayersOutOfRangeError):
        open_named(TINY, cache, hub=hub).fetch([PartSpec.parse("3-6")])


def test_a_disk_without_room_is_seen_before_anything_is_fetched(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.add("org/tiny", checkpoint)
    model = open_named(TINY, cache, hub=hub)

    class Full(NamedTuple):
        free: int

    monkeypatch.setattr("shutil.disk_usage", lambda _: Full(100))
    with pytest.raises(NoSpaceError):
        model.fetch(WHOLE)
    assert served.count_tensor_bytes() == 0


def test_no_tensor_is_in_memory_any_more_when_the_next_is_read(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.add("org/tiny", checkpoint)
    read, alive = list[weakref.ref[torch.UntypedStorage]](), list[int]()
    original = Spool.tensor

    def tensor(spool: Spool, wanted: Located) -> torch.Tensor:
        alive.append(sum(each() is not None for each in read))
        found = original(spool, wanted)
        read.append(weakref.ref(found.untyped_storage()))
        return found

    monkeypatch.setattr(Spool, "tensor", tensor)
    open_named(TINY, cache, hub=hub).fetch(WHOLE)
    assert len(read) > 40
    assert set(alive) == {0}


def test_it_stops_between_two_chunks_and_keeps_whole_sections(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path
) -> None:
    served.add("org/tiny", checkpoint)
    model, stop = open_named(TINY, cache, hub=hub), Stop()

    def script(asked: Asked) -> None:
        if asked.server == "storage" and (model.directory / "mid.00000.safetensors").exists():
            stop.set()

    served.script = script
    with pytest.raises(FetchStopped):
        model.fetch(WHOLE, stop=stop)
    assert {"begin.safetensors", "mid.00000.safetensors"} == section_files(model.directory).keys()
    assert set(Manifest.read(model.directory).files) == {"begin", "mid.00000"}


def counting(told: list[int]) -> model_module.Bar:
    from contextlib import nullcontext

    def bar(title: str, total: int) -> "nullcontext[object]":
        assert title == "fetching tiny"
        return nullcontext(told.append)

    return bar  # type: ignore[return-value]
