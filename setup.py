"""What pyproject.toml cannot say: names of libraries without Python, on which processors, and README for elsewhere."""

import copy
import re
import tomllib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
# as platforms of Python name those that the kernels are for, without NEON and with it
PROCESSORS = (("x86_64", "universal2"), ("aarch64", "arm64", "universal2"))


class PlainLibraries(build_ext):
    """Kernels are opened by ctypes: their names carry no version of Python."""

    def finalize_options(self) -> None:
        """Leaves out the instruction sets of other processors than the package is built for."""
        super().finalize_options()
        processor = self.plat_name.rpartition("-")[2]
        self.extensions = [each for each in self.extensions if processor in PROCESSORS["_neon" in each.name]]

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        """Compiles into a folder of its own, as --parallel builds all at once, and all have the same sources."""
        # a copy, as the threads of the others read this command's folder
        own = copy.copy(self)
        own.build_temp = str(Path(self.build_temp, ext.name))
        build_ext.build_extension(own, ext)

    def copy_extensions_to_source(self) -> None:
        """For an editable install. Libraries that bear the name of a Python version would be opened in their place."""
        super().copy_extensions_to_source()
        sources = self.get_finalized_command("build_py")
        for extension in self.extensions:
            package, _, name = extension.name.rpartition(".")
            for old in Path(sources.get_package_dir(package)).glob(f"{name}.*.so"):
                old.unlink()


class AnyPython(bdist_wheel):
    """One wheel for every Python of a platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def long_description() -> str:
    """README with links that lead somewhere from a package index, too."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    files = f"{project['urls']['Homepage']}/blob/v{project['version']}/"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\]\((?!https?://|#|mailto:)", f"]({files}", text)


setup(
    cmdclass={"build_ext": PlainLibraries, "bdist_wheel": AnyPython},
    long_description=long_description(),
    long_description_content_type="text/markdown",
)
