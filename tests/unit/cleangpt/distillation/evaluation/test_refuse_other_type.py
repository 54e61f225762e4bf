from pathlib import Path

import pytest

from cleangpt.distillation.evaluation.evaluate_distilled_model import refuse_other_type
from cleangpt.errors import UsageError


@pytest.mark.parametrize("config", ["{", "[1]", "\xff", None])
def test_a_config_that_cannot_be_read_is_left_to_what_reads_the_model(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config, encoding="latin-1")
    refuse_other_type(tmp_path, "Vanilla")


def test_a_model_of_another_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "cleangpt_sasp"}')
    with pytest.raises(UsageError, match="cleangpt_sasp, which is not Vanilla"):
        refuse_other_type(tmp_path, "Vanilla")
