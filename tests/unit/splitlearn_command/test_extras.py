import pytest

from splitlearn_command.extras import MissingExtra, missing_packages, needing

REQUIRED = [
    "absent-base>=1",
    "absent-elsewhere; sys_platform == 'nowhere' and extra == 'trunk'",
    "pytest>=1; extra == 'trunk'",
    "absent-wire>=2,<3; extra == 'trunk'",
    "splitlearn[trunk]; extra == 'client'",
    "absent-page[fast]>=1; extra == 'client'",
    "absent-plot; extra == 'bench'",
]


@pytest.fixture(autouse=True)
def required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitlearn_command.extras.requires", lambda _: REQUIRED)


@pytest.mark.parametrize(
    ("extra", "missing"),
    [
        ("trunk", ["absent-wire"]),
        ("client", ["absent-wire", "absent-page"]),
        ("bench,trunk", ["absent-wire", "absent-plot"]),
        ("no-such-extra", []),
    ],
)
def test_what_an_extra_lacks_on_this_platform_is_found_through_extras_that_it_names(
    extra: str, missing: list[str]
) -> None:
    assert missing_packages(extra) == missing


def test_a_missing_module_of_an_extra_is_an_error_that_says_what_installs_it() -> None:
    with pytest.raises(MissingExtra) as caught, needing("client"):
        raise ModuleNotFoundError("No module named 'wire'", name="wire")

    assert str(caught.value) == 'this needs the packages absent-wire, absent-page: pip install "splitlearn[client]"'


@pytest.mark.parametrize("extra", [None, "no-such-extra"])
def test_without_anything_to_install_the_error_stays_what_it_is(extra: str | None) -> None:
    with pytest.raises(ModuleNotFoundError), needing(extra):
        raise ModuleNotFoundError("No module named 'mamba'", name="mamba")


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), needing("client"):
        raise KeyError("x")
