"""What other packages may import, and the shape of the error tree."""

import pytest

import llm_sepweight
from llm_sepweight import FileError, SepweightError, errors


def test_the_public_names_are_these():
    names = [name for name in llm_sepweight.__all__ if not name.endswith("Error")]
    assert names == [
        "FileEntry",
        "Manifest",
        "PartSpec",
        "PartStateDict",
        "SepweightWriter",
        "TensorSource",
        "UntrustedPickle",
        "Verification",
        "Verified",
        "dump",
        "extract",
        "get_filenames",
        "lazy_load",
        "load",
        "verify",
    ]
    assert all(hasattr(llm_sepweight, name) for name in llm_sepweight.__all__)


def test_every_error_is_public_below_one_root_and_drawn_in_the_tree():
    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    found = {name: value for name, value in classes.items() if value.__module__ == errors.__name__}
    assert set(found) <= set(llm_sepweight.__all__)
    for name, error in found.items():
        assert issubclass(error, SepweightError)
        assert errors.__doc__ is not None
        assert name in errors.__doc__


def test_errors_about_a_file_carry_its_path(tmp_path):
    with pytest.raises(FileError) as caught:
        raise errors.WrongSizeError(tmp_path / "x", 3, 2)
    assert caught.value.file == tmp_path / "x"
