"""What becomes of the suite's schemas, kept in `results.jsonl`: `make schema-results` writes it."""

import json
from typing import Any

from schemas.suite import RESULTS, Case, cases, downloaded
from splitlearn_client.structured.document import UnsupportedSchema
from splitlearn_client.structured.grammar_trial import BadGrammar
from support.followed import Followed


def compiled(case: Case) -> Followed | dict[str, str]:
    """The compiled schema; or its keyword that is refused, and why."""
    try:
        return Followed(case.schema)
    except UnsupportedSchema as error:
        keyword = next((each for each in reversed(error.path) if not each.isdecimal()), "")
        return {"keyword": keyword, "reason": str(error)}
    except BadGrammar as error:
        return {"keyword": "patternProperties", "reason": str(error).splitlines()[0]}


def outcome(case: Case) -> dict[str, Any]:
    """A line of the list: what became of the schema, and which of its values are judged otherwise than in the suite."""
    line: dict[str, Any] = {"file": case.file, "description": case.description}
    found = compiled(case)
    if not isinstance(found, Followed):
        return {**line, "outcome": "refused", **found}
    judged = [(each, found.takes(each["data"])) for each in case.tests]
    wrong = {
        "accepted": [each["description"] for each, taken in judged if taken and not each["valid"]],
        "rejected": [each["description"] for each, taken in judged if each["valid"] and not taken],
    }
    return {**line, "outcome": "compiled", **{name: texts for name, texts in wrong.items() if texts}}


def main() -> None:
    lines = [json.dumps(outcome(case), ensure_ascii=False) for case in cases(downloaded())]
    RESULTS.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
