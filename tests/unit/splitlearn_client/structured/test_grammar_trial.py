import json

import psutil
import pytest

from splitlearn_client.errors import ProcessFailed
from splitlearn_client.structured.constraint import Constraint, Kind
from splitlearn_client.structured.grammar_trial import BadGrammar, GrammarTrial

CHAIN = "\n".join(["start: r0", *(f"r{i}: r{i + 1}" for i in range(12_000)), 'r12000: "a"'])
EXPONENTIAL = "\n".join(["start: R0", *(f"R{i}: R{i + 1} R{i + 1}" for i in range(40)), 'R40: "a"'])


def schema(**keywords: object) -> Constraint:
    return Constraint("json_schema", json.dumps(keywords))


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("json_schema", '{"type": "object"}'),
        ("regex", "[a-z]+"),
        ("choice", '["a", "b \\"c\\""]'),
        ("grammar", "start: /a+/"),
        ("grammar", 'root ::= "a" [0-9]'),
    ],
)
def test_each_kind_becomes_a_grammar(kind: Kind, source: str) -> None:
    assert GrammarTrial().grammar(Constraint(kind, source))


@pytest.mark.parametrize(
    ("constraint", "says"),
    [
        (Constraint("regex", "("), "unclosed group"),
        (Constraint("grammar", "no grammar"), "GBNF"),
        (Constraint("grammar", "start: start"), "no text follows it"),
        (schema(type="string", pattern="(?=a)"), "pattern"),
        (
            Constraint("grammar", CHAIN),
            "too much memory or is nested too deeply",
        ),
        (
            Constraint("grammar", EXPONENTIAL),
            "too big|takes too much",
        ),
        (Constraint("regex", "(" * 100_000), "unclosed group"),
        (Constraint("grammar", "start: " + "(" * 50_000), "nested"),
    ],
    ids=["brackets", "grammar", "no end", "schema", "stack", "exponential", "deep regex", "deep grammar"],
)
def test_what_cannot_be_compiled_is_refused_and_the_next_one_is_not(constraint: Constraint, says: str) -> None:
    trial = GrammarTrial()
    with pytest.raises(BadGrammar, match=says):
        trial.grammar(constraint)
    assert trial.grammar(Constraint("regex", "a"))


@pytest.mark.parametrize(
    "constraint",
    [
        schema(properties={"d": {"type": "string", "format": ["date"]}}),
        schema(**{"$id": "http://[x", "properties": {"a": {"$ref": "b"}}}),
        Constraint("json_schema", "{"),
        Constraint("json_schema", "[" * 100_000),
        Constraint("choice", "5"),
        Constraint("answer", "5"),
    ],
    ids=["format", "id", "no JSON", "deep JSON", "no choices", "no answer"],
)
def test_an_error_of_one_grammar_does_not_end_the_process(constraint: Constraint) -> None:
    trial = GrammarTrial()
    trial.grammar(Constraint("regex", "a"))
    assert trial._process is not None
    before = trial._process.pid
    with pytest.raises(BadGrammar):
        trial.grammar(constraint)
    assert trial.grammar(Constraint("regex", "b"))
    assert trial._process.pid == before


def test_a_refused_schema_has_the_place_of_its_keyword() -> None:
    with pytest.raises(BadGrammar) as refused:
        GrammarTrial().grammar(schema(properties={"a": {"uniqueItems": True}}))
    assert refused.value.path == ("properties", "a", "uniqueItems")


def test_time_is_bounded() -> None:
    names = {f"p{i}": {"type": "string"} for i in range(3000)}
    with pytest.raises(BadGrammar, match=r"more than 0\.1 s"):
        GrammarTrial(cpu_seconds=0.1).grammar(schema(type="object", properties=names))


def test_a_process_that_does_not_answer_is_not_the_grammar_s_fault() -> None:
    trial = GrammarTrial(wall_seconds=300)
    assert trial.grammar(Constraint("regex", "a"))
    assert trial._process is not None
    psutil.Process(trial._process.pid).suspend()
    # only of this one: the process that takes its place may be scheduled late
    trial._process._wall_seconds = 0.1
    with pytest.raises(ProcessFailed, match=r"did not answer within 0\.1 s"):
        trial.grammar(Constraint("regex", "b"))
    assert trial.grammar(Constraint("regex", "b"))


def test_the_process_has_no_files_no_environment_and_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    trial = GrammarTrial()
    trial.grammar(Constraint("regex", "a"))
    assert trial._process is not None
    seen = psutil.Process(trial._process.pid)
    assert "SECRET" not in seen.environ()
    assert seen.rlimit(psutil.RLIMIT_NOFILE) == (0, 0)
    assert seen.rlimit(psutil.RLIMIT_AS) == (1 << 30, 1 << 30)
