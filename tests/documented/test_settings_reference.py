from tests.documented.settings_reference import PAGE, render


def test_the_reference_of_the_settings_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run make settings-reference"
