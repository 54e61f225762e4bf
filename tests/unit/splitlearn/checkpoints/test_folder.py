"""Where a checkpoint is, what it is called, and what is said where there is none."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from splitlearn.checkpoints import folder as checkpoint_folder
from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.folder import check_name, checkpoint_name, find_checkpoint, inside, shorten
from splitlearn.errors import BadCheckpoint, SplitError, UnsupportedModel
from support.tiny_models import save_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_llama: PreTrainedModel) -> Path:
    return save_checkpoint(tmp_path / "checkpoint", tiny_llama)


def refusal(source: object) -> str:
    with pytest.raises(SplitError) as caught:
        prepare(str(source))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("source", ["x.gguf", "some/folder/model.Q4_K_M.gguf", "org/name-GGUF.gguf", "/tmp/x.GGUF"])
def test_a_gguf_path_is_not_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(checkpoint_folder, "snapshot_download", None)
    assert refusal(source).startswith(f"there is no file {source}")


@pytest.mark.parametrize(
    "source",
    [
        "/no/such/folder",
        "./missing",
        "../missing",
        "a/b/c",
        "with space/name",
        "ünï/code",
        "org/",
        "org//name",
        "x" * 999,
    ],
)
def test_what_cannot_be_an_id_is_not_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(checkpoint_folder, "snapshot_download", None)
    assert "there is no such folder" in refusal(source)


def test_a_file_is_told_from_a_folder(checkpoint: Path) -> None:
    assert "is a file; give the folder that holds it" in refusal(checkpoint / "model.safetensors")


def test_an_id_may_name_a_revision(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(model: str, *, revision: str | None, **_: object) -> str:
        asked.append((model, revision))
        return str(checkpoint)

    monkeypatch.setattr(checkpoint_folder, "snapshot_download", download)
    monkeypatch.chdir("/")
    assert prepare("org/name.2-b@refs/pr/3").model_name == "name.2-b"
    assert prepare("name").model_name == "name"
    assert asked == [("org/name.2-b", "refs/pr/3"), ("name", None)]


def test_offline_a_model_that_is_not_in_the_cache_is_said_to_be_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise checkpoint_folder.LocalEntryNotFoundError("cannot find the appropriate snapshot folder\nmore")

    monkeypatch.setattr(checkpoint_folder, "snapshot_download", download)
    assert "not in this machine's cache, and the hub could not be reached" in refusal("org/name")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("plain", "plain"),
        ("models--org--name/snapshots/0a1b", "name"),
        ("models--gpt2/snapshots/0a1b", "gpt2"),
        ("snapshots/0a1b", "0a1b"),
    ],
)
def test_a_folder_gives_the_model_its_name_but_not_the_commit(tmp_path: Path, folder: str, name: str) -> None:
    path = tmp_path / folder
    path.mkdir(parents=True)
    assert checkpoint_name(str(path), path) == name
    (tmp_path / "link").symlink_to(path)
    assert checkpoint_name(str(tmp_path / "link"), tmp_path / "link") == name


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "\x1b[31m", "a" * 201, "\udc80"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    with pytest.raises(BadCheckpoint, match="--name"):
        check_name(name)


def test_a_folder_with_a_name_of_two_lines_needs_another(checkpoint: Path) -> None:
    odd = checkpoint.parent / "odd\nname"
    checkpoint.rename(odd)
    assert "--name" in refusal(odd)
    assert prepare(str(odd), name="Größe 7").model_name == "Größe 7"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("{", "is not a JSON object"),
        ("[]", "is not a JSON object, but a list"),
        ("null", "is not a JSON object"),
        ("<!doctype html><html>", "web page"),
        ("version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        ("[" * 100_000, "is not a JSON object"),
        (b"\xff\xfe\xff", "is not a JSON object"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_json_file_that_cannot_be_read_is_named(checkpoint: Path, name: str, content: str | bytes, said: str) -> None:
    (checkpoint / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert (found := refusal(checkpoint)).startswith(str(checkpoint / name))
    assert said in found


def test_a_list_of_modules_that_is_none_is_named(checkpoint: Path) -> None:
    (checkpoint / "modules.json").write_text("{}")
    assert refusal(checkpoint).startswith(f"{checkpoint / 'modules.json'} is not a JSON list, but a dict")


@pytest.mark.parametrize("content", ["", "version https://git-lfs.github.com/spec/v1\noid"])
def test_a_vocabulary_that_is_none_is_named(checkpoint: Path, content: str) -> None:
    (checkpoint / "spiece.model").write_text(content)
    assert refusal(checkpoint).startswith(str(checkpoint / "spiece.model"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"])
def test_a_file_that_is_a_link_out_of_the_folder_is_not_read(tmp_path: Path, checkpoint: Path, name: str) -> None:
    (tmp_path / "secret").write_text("{}")
    (checkpoint / name).unlink(missing_ok=True)
    (checkpoint / name).symlink_to(tmp_path / "secret")
    assert "link out of the checkpoint's folder" in refusal(checkpoint)


def test_a_link_to_itself_is_named(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    (checkpoint / "config.json").symlink_to("config.json")
    assert "leads to itself" in refusal(checkpoint)


def test_a_file_inside_may_lie_in_a_folder_inside(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    assert inside(tmp_path, "sub/a.safetensors") == tmp_path / "sub" / "a.safetensors"


@pytest.mark.parametrize("change", [{"model_type": None}, {"model_type": 7}, {"model_type": ["llama"]}])
def test_a_config_without_a_model_type_says_so(checkpoint: Path, change: dict[str, object]) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, **change}))
    assert "names no model type" in refusal(checkpoint)


def test_code_of_the_folder_is_neither_run_nor_asked_for(checkpoint: Path) -> None:
    (checkpoint / "evil.py").write_text("raise SystemExit")
    config = json.loads((checkpoint / "config.json").read_text())
    own = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": own}))
    assert "own code" in refusal(checkpoint)
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "t5", "auto_map": own}))
    with pytest.raises(UnsupportedModel, match="not a causal language model"):
        prepare(str(checkpoint))


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 0},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": -1},
        {"hidden_size": "wide"},
        {"hidden_size": -64},
        {"hidden_act": "unheard of"},
        {"vocab_size": None},
        {"rope_scaling": "linear"},
        {"rope_scaling": {"rope_type": "unheard of"}},
        {"rope_parameters": []},
        {"layer_types": "full"},
    ],
)
def test_a_config_with_values_that_cannot_be_ends_in_one_line(checkpoint: Path, change: dict[str, object]) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, **change}))
    assert refusal(checkpoint)


def test_names_that_differ_in_numbers_are_one_item_and_the_rest_is_counted() -> None:
    names = [f"layers.{i}.scale" for i in range(30)] + ["a", "b", "c", "d", "e.1", "e.2"]
    assert shorten(names) == "layers.*.scale (30), a, b, c and 3 more"
    assert shorten(["x"]) == "x"


def test_a_folder_is_found_as_it_is(checkpoint: Path) -> None:
    assert find_checkpoint(str(checkpoint)) == checkpoint
