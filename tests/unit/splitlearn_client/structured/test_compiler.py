import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from llguidance import LLTokenizer

from splitlearn_client.errors import BadRequest, GrammarFailed, TooBusy
from splitlearn_client.structured import compiler
from splitlearn_client.structured.answer_source import AnswerSource, Rule
from splitlearn_client.structured.compiler import GrammarCompiler
from splitlearn_client.structured.constraint import Constraint
from splitlearn_client.structured.grammar_trial import GrammarTrial
from splitlearn_client.structured.matcher import Matcher
from splitlearn_client.structured.vocabulary import NoVocabulary
from support.followed import BYTES


class CountingTrial(GrammarTrial):
    """Knows what it was asked, and waits where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def grammar(self, constraint: Constraint) -> str:
        self.asked.append(constraint.source)
        self.may_go_on.wait()
        return super().grammar(constraint)


@asynccontextmanager
async def compiling(
    trial: GrammarTrial, read: Callable[[], LLTokenizer] = lambda: BYTES
) -> AsyncIterator[GrammarCompiler]:
    made = GrammarCompiler(read, trial)
    try:
        yield made
    finally:
        made.close()


def regex(source: str, param: str = "structured_outputs.regex") -> Constraint:
    return Constraint("regex", source, param)


async def test_a_constraint_is_compiled_once_whatever_field_it_comes_from() -> None:
    trial = CountingTrial()
    async with compiling(trial) as grammars:
        first = await grammars.compile(regex("a"))
        again = await grammars.compile(regex("a", "elsewhere"))
        await grammars.compile(regex("b"))
    assert again.beginning is first.beginning
    assert (first.param, again.param) == ("structured_outputs.regex", "elsewhere")
    assert trial.asked == ["a", "b"]


async def follow(followed: Matcher, tokens: Sequence[int]) -> None:
    for token in tokens:
        followed.look_ahead()
        await followed.ready()
        await followed.advance(token)


async def test_a_grammar_that_an_answer_has_used_up_is_compiled_anew_for_the_next() -> None:
    trial = CountingTrial()
    async with compiling(trial) as grammars:
        source = "((a{1,1000}){1,1000}){1,1000}"
        followed = (await grammars.compile(regex(source))).matcher(frozenset())
        with pytest.raises(GrammarFailed):
            await follow(followed, 1000 * [ord("a")])
        fresh = (await grammars.compile(regex(source))).matcher(frozenset())
        await fresh.ready()
    assert fresh.biases[0][ord("a")] == 0
    assert trial.asked == [source, source]


async def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "MOST_GRAMMARS", 2)
    trial = CountingTrial()
    async with compiling(trial) as grammars:
        for source in ("a", "b", "a", "c", "a", "b"):
            await grammars.compile(regex(source))
    assert trial.asked == ["a", "b", "c", "b"]


async def test_long_ones_are_forgotten_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "MOST_CHARACTERS", 5000)
    trial = CountingTrial()
    async with compiling(trial) as grammars:
        for source in ("a" * 3000, "b" * 3000, "a" * 3000):
            await grammars.compile(regex(source))
    assert len(trial.asked) == 3


async def test_only_so_many_wait() -> None:
    trial = CountingTrial()
    trial.may_go_on.clear()
    async with compiling(trial) as grammars:
        waiting = [asyncio.create_task(grammars.compile(regex("a" * n))) for n in range(1, compiler.MOST_WAITING + 1)]
        await asyncio.sleep(0)
        with pytest.raises(TooBusy):
            await grammars.compile(regex("b"))
        trial.may_go_on.set()
        await asyncio.gather(*waiting)
        assert await grammars.compile(regex("b"))


async def test_a_request_that_is_gone_is_not_compiled() -> None:
    trial = CountingTrial()
    trial.may_go_on.clear()
    async with compiling(trial) as grammars:
        running, waiting = (asyncio.create_task(grammars.compile(regex(each))) for each in "ab")
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        trial.may_go_on.set()
        await running
        await grammars.compile(regex("c"))
    assert trial.asked == ["a", "c"]


async def test_a_keyword_that_is_refused_is_named_by_its_place() -> None:
    async with compiling(GrammarTrial()) as grammars:
        schema = json.dumps({"properties": {"a": {"uniqueItems": True}}})
        with pytest.raises(BadRequest, match="'uniqueItems'") as refused:
            await grammars.compile(Constraint("json_schema", schema, "structured_outputs.json"))
    assert refused.value.param == "structured_outputs.json.properties.a.uniqueItems"


async def test_a_tokenizer_that_cannot_be_read_is_tried_once_and_said() -> None:
    tries = []

    def read() -> LLTokenizer:
        tries.append(1)
        raise NoVocabulary("its tokenizer is written in Python")

    async with compiling(GrammarTrial(), read) as grammars:
        for source in "ab":
            with pytest.raises(BadRequest, match="written in Python"):
                await grammars.compile(regex(source))
    assert len(tries) == 1


async def test_nothing_is_read_or_started_before_the_first_constraint() -> None:
    tries: list[int] = []
    trial = GrammarTrial()

    def read() -> LLTokenizer:
        tries.append(1)
        return BYTES

    async with compiling(trial, read):
        assert not tries
        assert trial._process is None


async def test_what_is_wrong_within_an_answer_is_said_of_its_place_in_the_request() -> None:
    schema = {"type": "array", "uniqueItems": True}
    rule = Rule("arguments_0", ("tools", "0", "function", "parameters"), schema)
    source = AnswerSource("start: arguments_0", (rule,), {}).text()
    async with compiling(GrammarTrial()) as grammars:
        with pytest.raises(BadRequest) as refused:
            await grammars.compile(Constraint("answer", source, "response_format"))
    assert refused.value.param == "tools.0.function.parameters.uniqueItems"
