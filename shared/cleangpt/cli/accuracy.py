"""`cleangpt accuracy`: how many questions about the interpreter's documentation a model answers exactly."""

from pathlib import Path
from typing import Annotated

import typer

from cleangpt.errors import UsageError


def accuracy(
    folder: Annotated[Path, typer.Argument(help="What `cleangpt train` or `splitlearn convert` wrote.")],
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not list the questions that came back wrong.")] = False,
) -> None:
    """Decodes greedily and counts exact answers, for models trained on `stdlib-questions`."""
    from cleangpt.data.stdlib_questions import collect_questions
    from cleangpt.evaluation.accuracy import measure_accuracy
    from cleangpt.evaluation.model_folder import load_model
    from cleangpt.evaluation.trained_on import other_text

    model, tokenizer = load_model(folder)
    if not tokenizer.chat_template:
        raise UsageError(f"{folder} has no chat template to be asked by; name a model trained on conversations")
    questions = collect_questions()
    found = measure_accuracy(model, tokenizer, questions, show_progress=True)
    print(found)
    if note := other_text(folder, questions):
        print(note)
    for miss in () if quiet else found.misses:
        print(f"  {miss.prompt}\n    expected: {miss.expected}\n    found:    {miss.found}")
