"""The part spec mini-language."""

import pytest

from llm_sepweight import LayersOutOfRangeError, MalformedPartSpecError, PartSpec


@pytest.mark.parametrize(
    ("text", "begin", "layers", "end"),
    [
        ("b", True, (), False),
        ("e", False, (), True),
        ("b e", True, (), True),
        ("b 0-5", True, (range(0, 5),), False),
        ("7-12", False, (range(7, 12),), False),
        ("75-80 e", False, (range(75, 80),), True),
        ("b 0-2 5-7 e", True, (range(0, 2), range(5, 7)), True),
        ("0-3 3-5", False, (range(0, 3), range(3, 5)), False),
    ],
)
def test_a_part_spec_names_sections_and_prints_as_it_was_written(text, begin, layers, end):
    spec = PartSpec.parse(text)
    assert spec == PartSpec(begin=begin, layers=layers, end=end)
    assert str(spec) == text


def test_f_is_everything_at_any_depth():
    spec = PartSpec.parse("f")
    assert spec.full
    assert str(spec) == "f"
    assert spec.layer_indices(3) == (0, 1, 2)
    assert spec.sections(2) == ("begin", "mid.00000", "mid.00001", "end")
    assert spec.sections(0) == ("begin", "end")


def test_surplus_blanks_do_not_matter():
    assert str(PartSpec.parse("  b   0-2  e ")) == "b 0-2 e"


def test_ranges_are_half_open():
    assert PartSpec.parse("b 0-2 5-7 e").layer_indices(7) == (0, 1, 5, 6)
    assert PartSpec.parse("75-80 e").sections(80) == (*(f"mid.{layer:05d}" for layer in range(75, 80)), "end")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "5",
        "5-",
        "-5",
        "b e b",
        "e b",
        "0-2 b",
        "e 0-2",
        "f e",
        "b f",
        "b0-5",
        "0-5e",
        "5-5",
        "7-5",
        "0-3 2-5",
        "5-7 0-2",
        "0-2,5-7",
        "0–5",
        "٠-٥",
        "0-" + "9" * 5000,
    ],
)
def test_nonsense_is_refused_with_the_grammar(text):
    with pytest.raises(MalformedPartSpecError, match="half-open layer ranges"):
        PartSpec.parse(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"begin": False, "layers": (), "end": False},
        {"begin": True, "layers": (range(0, 4, 2),), "end": False},
        {"begin": True, "layers": (range(-1, 2),), "end": False},
        {"begin": True, "layers": (range(0, 2),), "end": True, "full": True},
        {"begin": False, "layers": (), "end": True, "full": True},
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields):
    with pytest.raises(MalformedPartSpecError):
        PartSpec(**fields)


def test_layers_past_the_end_are_refused_with_the_number_of_layers():
    spec = PartSpec.parse("20-25 e")
    with pytest.raises(LayersOutOfRangeError, match=r"'20-25 e'.*24 layers") as caught:
        spec.sections(24)
    assert caught.value.n_layers == 24
    assert spec.layer_indices(25) == (20, 21, 22, 23, 24)


def test_a_huge_range_is_refused_without_being_counted_out():
    with pytest.raises(LayersOutOfRangeError):
        PartSpec.parse("0-999999999").layer_indices(2)


def test_of_takes_text_or_a_spec():
    spec = PartSpec.parse("b")
    assert PartSpec.of(spec) is spec
    assert PartSpec.of("b") == spec


@pytest.mark.parametrize("text", ["b", "e", "3-4", "b 0-2 5-7 e", "1-4"])
def test_the_part_of_some_sections_is_the_one_that_has_them(text):
    sections = PartSpec.parse(text).sections(9)
    assert PartSpec.of_sections(reversed(sections)) == PartSpec.parse(text)
    with pytest.raises(MalformedPartSpecError):
        PartSpec.of_sections([])
