import pytest

from splitlearn.hub.names import ModelName


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
     "org/name@a b", "org/name@../x", "org/..", "~/name", "org/name@-x", "o" * 300 + "/n", "", "org\n/name"],
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
