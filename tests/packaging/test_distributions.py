"""What lies in the wheel and in the sdist, and what their page on a package index says."""

import re
import shutil
import tarfile
from zipfile import ZipFile

import pytest

from splitlearn.backends.cpu.kernels import INSTRUCTION_SETS
from support.distributions import Built, metadata, tracked_files

pytestmark = pytest.mark.slow


def test_the_wheel_is_for_any_python_of_this_platform_and_holds_the_kernels(built: Built) -> None:
    python, abi, platform = built.wheel.stem.split("-")[-3:]
    assert (python, abi) == ("py3", "none")
    assert platform != "any"
    libraries = {name for name in ZipFile(built.wheel).namelist() if name.endswith(".so")}
    wanted = {f"_kernels_{name}" for name in INSTRUCTION_SETS} if shutil.which("cc") else set()
    assert libraries == {f"splitlearn/backends/cpu/kernels/{name}.so" for name in wanted}


def test_the_wheel_holds_every_module_and_the_page_and_no_sources_of_kernels(built: Built) -> None:
    names = set(ZipFile(built.wheel).namelist())
    folders = ("shared/", "services/")
    modules = {name.split("/", 1)[1] for name in tracked_files() if name.startswith(folders) and name.endswith(".py")}
    assert modules <= names
    page = "services/splitlearn_client/page/"
    assert {name.removeprefix("services/") for name in tracked_files() if name.startswith(page)} <= names
    assert not [name for name in names if name.endswith((".c", ".h", ".safetensors"))]


def test_the_sdist_holds_every_file_of_the_checkout(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(tracked_files()) - names == set()


def test_the_page_on_an_index_names_the_project_and_every_link_of_it_is_absolute(built: Built) -> None:
    said = metadata(built.wheel).metadata
    # the chat page's libraries are in it
    assert said["License-Expression"] == "MIT AND (Apache-2.0 OR MPL-2.0)"
    assert {"Homepage", "Documentation", "Changelog", "Issues"} == {
        line.partition(",")[0] for line in said.get_all("Project-URL") or ()
    }
    assert not [line for line in said.get_all("Classifier") or () if "Windows" in line or "Independent" in line]
    page = str(said.get_payload())
    links = re.findall(r"\]\(([^)]+)\)|(?:src|href)=\"([^\"]+)\"", page)
    assert links
    assert not [link for pair in links for link in pair if link and not link.startswith(("https://", "http://", "#"))]
