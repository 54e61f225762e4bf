"""What a named model is, and every way in which it may be none."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from llm_sepweight import Manifest
from splitlearn.errors import (
    BadCheckpoint,
    BadDownload,
    HubError,
    HubRefused,
    HubUnreachable,
    NotCached,
    UnsupportedModel,
)
from splitlearn.hub import opening
from splitlearn.hub.listing import Hub
from splitlearn.hub.model import NamedModel
from splitlearn.hub.names import ModelName
from splitlearn.hub.opening import open_named
from splitlearn.hub.store import Cache
from support.embedding_models import write_modules
from support.loopback_hub import Asked, Fault, LoopbackHub, loopback_hub

TINY = ModelName("org/tiny")
WHOLE = "model.safetensors"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def named(name: ModelName, cache: Cache, hub: Hub, **options: Any) -> NamedModel:
    return open_named(name, cache, hub=hub, **options)


def test_nothing_of_the_weights_is_fetched_and_no_tokenizer_for_those_that_need_none(
    served: LoopbackHub, hub: Hub, cache: Cache, shards: Path
) -> None:
    commit = served.add("org/tiny", shards)
    model = named(TINY, cache, hub)
    assert served.count_tensor_bytes() == 0
    assert served.count_beside() < opening.MOST_BESIDE
    assert [path.name for path in model.directory.iterdir()] == ["manifest.json"]
    manifest = Manifest.read(model.directory)
    assert (manifest.model_name, manifest.n_layers, manifest.files) == ("tiny", 5, {})
    assert manifest.origin is not None
    assert manifest.origin["commit"] == commit


def test_the_tokenizer_comes_when_it_is_wanted_and_once(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path
) -> None:
    served.add("org/tiny", checkpoint)
    named(TINY, cache, hub)
    directory = named(TINY, cache, hub, tokenizer=True).directory
    assert (directory / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    served.forget()
    named(TINY, cache, hub, tokenizer=True)
    assert [asked.path for asked in served.asked] == ["/api/models/org/tiny/revision/main"]


def test_what_says_how_embeddings_are_pooled_comes_with_the_tokenizer(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    write_modules(folder, ["Transformer", "Pooling", "Normalize"], {"pooling_mode": "mean"}, {"prompts": {}})
    served.add("org/tiny", folder)
    assert not (named(TINY, cache, hub).directory / "modules.json").exists()
    directory = named(TINY, cache, hub, tokenizer=True).directory
    for name in ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"):
        assert (directory / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_branch_is_what_it_is_now_and_a_commit_needs_no_hub_once_it_is_there(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, shards: Path
) -> None:
    first = served.add("org/tiny", checkpoint)
    before = named(TINY, cache, hub).directory
    second = served.add("org/tiny", shards)
    assert first != second
    assert named(TINY, cache, hub).directory != before
    served.forget()
    assert named(ModelName("org/tiny", first), cache, hub).directory == before
    assert served.asked == []


def test_tags_and_other_branches_are_revisions(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, shards: Path
) -> None:
    served.add("org/tiny", checkpoint)
    served.add("org/tiny", shards, revision="refs/pr/1")
    pulled = named(ModelName("org/tiny", "refs/pr/1"), cache, hub).directory
    assert pulled != named(TINY, cache, hub).directory


def test_offline_a_model_is_what_it_was_when_it_was_last_asked_for(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.add("org/tiny", checkpoint)
    directory = named(TINY, cache, hub).directory
    served.forget()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert named(TINY, cache, hub).directory == directory
    with pytest.raises(NotCached, match=r"org/tiny: its .* is not in the cache .* HF_HUB_OFFLINE"):
        named(TINY, cache, hub, tokenizer=True)
    with pytest.raises(NotCached, match="org/other: its revision is not in the cache"):
        named(ModelName("org/other"), cache, hub)
    with pytest.raises(NotCached, match="org/tiny@v2: its revision"):
        named(ModelName("org/tiny", "v2"), cache, hub)
    assert served.asked == []


FORMS: dict[str, tuple[dict[str, bytes | None], str]] = {
    "a pickle": (
        {WHOLE: None, "pytorch_model.bin": b"x"},
        r"`splitlearn convert org/tiny -o DIR` reads its pytorch",
    ),
    "GGUF": ({WHOLE: None, "tiny.gguf": b"GGUF"}, "holds no model.safetensors, whole or in shards"),
    "an adapter": ({"adapter_config.json": b"{}"}, "LoRA adapter"),
    "no config": ({"config.json": None}, "no config.json"),
    "a broken config": ({"config.json": b"<html>"}, "is a web page"),
    "no safetensors": ({WHOLE: b"\x01" + b"\0" * 20}, "model.safetensors is no safetensors file"),
    "less than eight bytes": ({WHOLE: b"abc"}, "header would be longer than the file"),
    "an index of nothing": ({WHOLE: None, "model.safetensors.index.json": b"{}"}, "is not an index of shards"),
    "an index of what is not there": (
        {WHOLE: None, "model.safetensors.index.json": b'{"weight_map": {"a": "b.safetensors"}}'},
        "names b.safetensors, which the hub does not have",
    ),
    "an index that leads out": (
        {WHOLE: None, "model.safetensors.index.json": b'{"weight_map": {"a": "../../b.safetensors"}}'},
        "which the hub does not have",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_model_that_cannot_be_had_in_part_is_refused_by_name(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, form: str
) -> None:
    changes, message = FORMS[form]
    files = {name: data for name, data in {**files_of(checkpoint), **changes}.items() if data is not None}
    served.add_files("org/tiny", files)
    with pytest.raises(BadCheckpoint, match=message):
        named(TINY, cache, hub)
    assert not list(cache.root.rglob("manifest.json"))


def test_tensors_that_are_missing_are_missed_before_anything_is_fetched(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path
) -> None:
    config = json.loads((checkpoint / "config.json").read_text()) | {"num_hidden_layers": 6}
    served.add_files("org/tiny", {**files_of(checkpoint), "config.json": json.dumps(config).encode()})
    with pytest.raises(BadCheckpoint, match="lacks"):
        named(TINY, cache, hub)
    assert served.count_tensor_bytes() == 0


def test_quantised_weights_are_refused_as_those_of_a_folder_are(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path
) -> None:
    config = json.loads((checkpoint / "config.json").read_text()) | {"quantization_config": {"quant_method": "aqlm"}}
    served.add_files("org/tiny", {**files_of(checkpoint), "config.json": json.dumps(config).encode()})
    with pytest.raises(UnsupportedModel, match="aqlm"):
        named(TINY, cache, hub)


def test_more_beside_the_tensors_than_the_bound_is_refused_before_it_is_fetched(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.add("org/tiny", checkpoint)
    configs = (checkpoint / "config.json").stat().st_size
    for bound in (configs - 1, configs + 100):
        monkeypatch.setattr(opening, "MOST_BESIDE", bound)
        with pytest.raises(BadCheckpoint, match=f"more than {bound}; `splitlearn convert org/tiny -o DIR` takes them"):
            named(TINY, cache, hub)
    # the second time the length of the header
    assert served.sent == [(WHOLE, 0, 8)]
    assert not list(cache.root.rglob("manifest.json"))


def test_who_the_model_is_not_shown_to_is_told_what_to_do(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.add("org/tiny", checkpoint, token="hf_right")
    with pytest.raises(HubRefused, match="org/tiny is gated: ask for access on its page, and give a token"):
        named(TINY, cache, hub)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubRefused, match="org/tiny is gated"):
        named(TINY, cache, hub)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    named(TINY, cache, hub)
    assert {asked.authorization for asked in served.asked if asked.server == "storage"} == {None}


def test_what_the_hub_does_not_have_is_said_to_be_neither_directory_nor_model(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path
) -> None:
    served.add("org/tiny", checkpoint)
    with pytest.raises(HubRefused, match="org/typo is neither a directory here nor a model that the hub shows to you"):
        named(ModelName("org/typo"), cache, hub)
    with pytest.raises(HubRefused, match="org/tiny@v9: the hub does not have this revision"):
        named(ModelName("org/tiny", "v9"), cache, hub)


def test_a_hub_that_is_not_there_is_said_to_be_unreachable(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with loopback_hub() as gone:
        url = gone.url
    with pytest.raises(HubUnreachable, match="org/tiny: the hub cannot be reached"):
        named(TINY, cache, Hub(url))


ANSWERS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"<html>", "cannot be read"),
    "a list": (b"[]", "cannot be read"),
    "no commit": (b'{"id": "org/tiny", "siblings": []}', "names the commit None"),
    "a commit that is none": (b'{"id": "org/tiny", "sha": "../..", "siblings": []}', r"names the commit '../..'"),
    "no sizes": (
        b'{"id": "org/tiny", "sha": "%s", "siblings": [{"rfilename": "config.json"}]}' % (b"a" * 40),
        "no size",
    ),
    "nothing": (b'{"id": "org/tiny", "sha": "%s"}' % (b"a" * 40), "holds no model.safetensors"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_of_the_hub_that_is_none_is_refused(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, answer: str
) -> None:
    served.add("org/tiny", checkpoint)
    body, message = ANSWERS[answer]
    served.script = lambda asked: Fault(replaced=body) if asked.path.startswith("/api/") else None
    with pytest.raises((BadDownload, BadCheckpoint), match=message):
        named(TINY, cache, hub)


def test_a_hub_that_answers_a_commit_with_another_is_refused(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path
) -> None:
    commit = served.add("org/tiny", checkpoint)
    served.repos["org/tiny"].revisions["f" * 40] = commit
    with pytest.raises(BadDownload, match="the hub answered with another revision"):
        named(ModelName("org/tiny", "f" * 40), cache, hub)


@pytest.mark.parametrize("size", ["shorter", "longer"])
def test_a_small_file_of_another_size_than_announced_is_not_used(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path, size: str
) -> None:
    served.add("org/tiny", checkpoint)
    config = (checkpoint / "config.json").read_bytes()
    other = config[:-1] if size == "shorter" else config + b" "

    def script(asked: Asked) -> Fault | None:
        return Fault(replaced=other) if asked.file == "config.json" else None

    served.script = script
    with pytest.raises(HubError, match=r"config\.json"):
        named(TINY, cache, hub)
    served.script = lambda _: None
    assert Manifest.read(named(TINY, cache, hub).directory).n_layers == 5


def test_a_damaged_listing_in_the_cache_is_named_with_what_removes_it(
    served: LoopbackHub, hub: Hub, cache: Cache, checkpoint: Path
) -> None:
    commit = served.add("org/tiny", checkpoint)
    pinned = ModelName("org/tiny", commit)
    named(pinned, cache, hub)
    cache.folder("org/tiny", commit).listing.write_text("{}")
    with pytest.raises(NotCached, match=f"`splitlearn cache rm org/tiny@{commit}` removes it"):
        named(pinned, cache, hub)
