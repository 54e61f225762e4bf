"""Texts and token ids in their four forms, in prompts and in inputs."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from splitlearn_client.api.prompt_fields import MOST_INPUTS, MOST_PROMPTS, Input, Prompt, named

FORMS: list[tuple[Any, dict[str, Any]]] = [
    ("x", {"f": "x"}),
    ([5, 6], {"f": [5, 6]}),
    (["x", "y"], {"f.0": "x", "f.1": "y"}),
    ([[5], [6, 7]], {"f.0": [5], "f.1": [6, 7]}),
    # one text of a list keeps its place in errors
    (["x"], {"f.0": "x"}),
]


@pytest.mark.parametrize(("kind", "most"), [(Prompt, MOST_PROMPTS), (Input, MOST_INPUTS)])
def test_each_form_is_taken_and_each_member_has_a_name(kind: Any, most: int) -> None:
    adapter = TypeAdapter(kind)
    for sent, members in FORMS:
        assert named("f", adapter.validate_python(sent)) == members
    for member in ("x", [5]):
        assert len(adapter.validate_python([member] * most)) == most
        with pytest.raises(ValidationError, match=f"at most {most}"):
            adapter.validate_python([member] * (most + 1))


@pytest.mark.parametrize("sent", ["", [], [""], [[]], [True], [5.0], ["x", 5], [5, "x"], [[5], "x"], {}, 5, None])
def test_anything_else_is_refused(sent: Any) -> None:
    for kind in (Prompt, Input):
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(sent)
