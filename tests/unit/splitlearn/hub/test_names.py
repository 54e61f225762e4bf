from pathlib import Path

import pytest

from splitlearn.hub.names import ModelName, name_of


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("Qwen/Qwen2-0.5B", "Qwen/Qwen2-0.5B", "main"),
        ("org/name@v1.0", "org/name", "v1.0"),
        ("org/name@refs/pr/3", "org/name", "refs/pr/3"),
        ("org/name@" + "a" * 40, "org/name", "a" * 40),
    ],
)
def test_a_name_has_an_organisation_a_model_and_perhaps_a_revision(text: str, repo: str, revision: str) -> None:
    assert ModelName.parse(text) == ModelName(repo, revision)


@pytest.mark.parametrize(
    "text",
    ["weights", "/org/name", "./org/name", "org/name@", "../name", "a/b/c", "org/", "/name", "org/na me",
     "org/name@a b", "org/name@../x", "org/..", "~/name", "org/name@-x", "o" * 300 + "/n", "", "org\n/name",
     "some/model.Q4_K_M.gguf", "some/MODEL.GGUF"],
)  # fmt: skip
def test_everything_else_is_no_name(text: str) -> None:
    assert ModelName.parse(text) is None


def test_only_a_whole_commit_is_pinned() -> None:
    assert ModelName("org/name", "0123456789abcdef" * 2 + "01234567").is_pinned
    assert not ModelName("org/name", "0123456").is_pinned
    assert not ModelName("org/name").is_pinned


def test_it_is_shown_as_it_is_given() -> None:
    assert str(ModelName("org/name")) == "org/name"
    assert str(ModelName("org/name", "v1")) == "org/name@v1"
    assert ModelName("org/name", "v1").model == "name"


def test_a_path_that_exists_is_a_path_and_what_looks_like_a_name_is_one_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert name_of(Path("org/tiny")) == ModelName("org/tiny")
    assert name_of(Path("org/tiny@v1")) == ModelName("org/tiny", "v1")
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    assert name_of(Path("org/tiny")) is None
    assert name_of(Path("org/tiny@main")) == ModelName("org/tiny")
    for path in ("weights", "/no/where", "../org/tiny", "a/b/c", "x" * 5000 + "/y"):
        assert name_of(Path(path)) is None
