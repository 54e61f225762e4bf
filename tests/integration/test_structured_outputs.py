"""Answers that follow a schema, an expression, choices or a grammar, over a real trunk and with random weights."""

import asyncio
import json
import re
from typing import Any

import pytest

from support.running_split import Split

PROMPT = [5, 9, 17, 33, 12]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
AS_RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
DATE = r"(19|20)\d\d-[01]\d-[0-3]\d"


async def asked(split: Split, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": PROMPT, "temperature": 1, "seed": 3, "max_tokens": 200, **fields}
    reply = await split.client.http.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    whole: dict[str, Any] = reply.json()
    return whole


async def choice_of(split: Split, **fields: Any) -> dict[str, Any]:
    choice: dict[str, Any] = (await asked(split, **fields))["choices"][0]
    return choice


def is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        list(value) == ["name", "age"]
        and isinstance(value["name"], str)
        and len(value["name"]) <= 8
        and type(value["age"]) is int
        and 0 <= value["age"] <= 130
    )


@pytest.mark.parametrize("seed", range(4))
async def test_an_answer_follows_its_schema_and_ends_with_it(split: Split, seed: int) -> None:
    choice = await choice_of(split, response_format=AS_RESPONSE_FORMAT, seed=seed)
    assert choice["finish_reason"] == "stop"
    assert is_person(choice["text"])
    assert not is_person((await choice_of(split, structured_outputs={"regex": r'\{"name": 1\}'}))["text"])


@pytest.mark.parametrize(
    ("field", "follows"),
    [
        ({"json": PERSON}, is_person),
        ({"json": json.dumps(PERSON)}, is_person),
        ({"regex": DATE}, re.compile(DATE).fullmatch),
        ({"choice": ["yes", "no", 'a "quoted" one']}, ["yes", "no", 'a "quoted" one'].__contains__),
        ({"grammar": 'start: "a" DIGITS\nDIGITS: /[0-9]{1,3}/'}, re.compile("a[0-9]{1,3}").fullmatch),
        ({"grammar": 'root ::= "b" [0-9] [0-9]'}, re.compile("b[0-9]{2}").fullmatch),
    ],
    ids=["schema", "schema as text", "expression", "choices", "lark", "gbnf"],
)
async def test_each_kind_of_vllms_field_is_followed(split: Split, field: dict[str, Any], follows: Any) -> None:
    choice = await choice_of(split, structured_outputs=field)
    assert choice["finish_reason"] == "stop"
    assert follows(choice["text"]), choice["text"]


@pytest.mark.parametrize(
    "field",
    [{"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}],
    ids=["openai", "vllm"],
)
async def test_any_object_is_an_object(split: Split, field: dict[str, Any]) -> None:
    # tokens that open something make random answers long
    closing = {str(token): 20 for token in range(300) if split_token(split, token) in {"{", "}", '"', ":", "1"}}
    text = (await choice_of(split, **field, logit_bias=closing, max_tokens=500))["text"]
    assert text.startswith("{")
    assert isinstance(json.loads(text), dict)


def split_token(split: Split, token: int) -> str:
    return split.client.service.tokenizer.vocabulary.text(token)


async def refused(split: Split, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": PROMPT, **fields}
    reply = await split.client.http.post("/v1/completions", json=body)
    assert reply.status_code == 400, reply.text
    error: dict[str, Any] = reply.json()["error"]
    return error


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_object"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema", "not supported"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "zzz": 1}}},
            "response_format.json_schema.zzz",
            "not supported",
        ),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs",
            "either",
        ),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice", "exactly one"),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
        (
            {"structured_outputs": {"structural_tag": "{}"}},
            "structured_outputs.structural_tag",
            "'structural_tag' is not supported here; leave it out and send exactly one of json, regex, choice, grammar",
        ),
        ({"structured_outputs": {"regex": "a", "<x>": 1}}, "structured_outputs", "'<x>' is not supported here"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "not JSON"),
        ({"structured_outputs": {"grammar": "start: %json {}"}}, "structured_outputs.grammar", "%json"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "unclosed group"),
        ({"structured_outputs": {"grammar": "start: nothing"}}, "structured_outputs.grammar", "nothing"),
        ({"guided_json": {}}, "guided_json", "not supported"),
        (
            {"structured_outputs": {"json": {"properties": {"a": {"uniqueItems": True}}}}},
            "structured_outputs.json.properties.a.uniqueItems",
            "'uniqueItems'",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"$ref": "http://x/y"}},
                }
            },
            "response_format.json_schema.schema.$ref",
            "leads out of the schema",
        ),
        (
            {"structured_outputs": {"json": {"properties": {"d": {"format": ["date"]}}}}},
            "structured_outputs.json.properties.d.format",
            "is supported for date",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_followed_is_refused_by_name(
    split: Split, fields: dict[str, Any], param: str, says: str
) -> None:
    error = await refused(split, **fields)
    assert error["param"] == param
    assert says in error["message"]


CHAIN = "\n".join(["start: r0", *(f"r{i}: r{i + 1}" for i in range(12_000)), 'r12000: "a"'])
EXPONENTIAL = "\n".join(["start: R0", *(f"R{i}: R{i + 1} R{i + 1}" for i in range(40)), 'R40: "a"'])
HOSTILE = {
    "a stack that overflows": {"grammar": CHAIN},
    "an exponential grammar": {"grammar": EXPONENTIAL},
    "brackets": {"regex": "(" * 60_000},
    "a grammar without an end": {"grammar": "start: start"},
    "a schema of itself": {"json": {"$ref": "#"}},
    "a schema that is longer than may be": {"json": {"enum": ["x" * 1000] * 200}},
    "combinations": {
        "json": {"allOf": [{"anyOf": [{"required": [f"{a}{i}"]} for a in "ab"]} for i in range(40)]},
    },
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_request_is_refused_and_the_next_one_is_answered(split: Split, name: str) -> None:
    error = await refused(split, structured_outputs=HOSTILE[name])
    assert error["param"].startswith("structured_outputs.")
    assert (await choice_of(split, structured_outputs={"choice": ["yes"]}))["text"] == "yes"


async def test_several_answers_each_follow_it_streamed_and_whole(split: Split) -> None:
    fields: dict[str, Any] = {"structured_outputs": {"regex": DATE}, "n": 3, "logprobs": 2}
    whole = (await asked(split, **fields))["choices"]
    assert len({each["text"] for each in whole}) == 3
    assert all(re.fullmatch(DATE, each["text"]) and each["finish_reason"] == "stop" for each in whole)
    texts = ["", "", ""]
    extra = {"structured_outputs": {"regex": DATE}}
    stream = await split.client.openai.completions.create(
        model="tiny", prompt=PROMPT, seed=3, n=3, max_tokens=200, stream=True, extra_body=extra
    )
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [each["text"] for each in whole]
    assert all("".join(each["logprobs"]["tokens"]) == each["text"] for each in whole)


async def test_the_best_of_several_answers_follows_it(split: Split) -> None:
    choice = await choice_of(split, structured_outputs={"regex": DATE}, best_of=3)
    assert re.fullmatch(DATE, choice["text"])


async def test_a_chat_follows_it_as_the_openai_package_asks(split: Split) -> None:
    reply = await split.client.openai.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "who?"}],
        response_format=AS_RESPONSE_FORMAT,  # type: ignore[arg-type]
        max_tokens=200,
    )
    assert reply.choices[0].finish_reason == "stop"
    assert is_person(reply.choices[0].message.content or "")


async def test_what_is_cut_off_says_so(split: Split) -> None:
    choice = await choice_of(split, response_format=AS_RESPONSE_FORMAT, max_tokens=4)
    assert choice["finish_reason"] == "length"
    assert choice["text"].startswith("{")


async def test_the_other_fields_work_within_it(split: Split) -> None:
    digits: dict[str, Any] = {"structured_outputs": {"regex": "[0-9]{1,30}"}}
    token = {split_token(split, each): each for each in range(300)}
    # a bias does not bring back what is masked, and chooses among the rest
    biased = await choice_of(split, **digits, logit_bias={str(token["x"]): 100, str(token["7"]): 100})
    assert set(biased["text"]) == {"7"}
    assert (await choice_of(split, **digits, logit_bias={str(token["7"]): 100}, stop="77"))["text"] == ""
    # no end token comes in the first ones, and with ignore_eos none at all
    assert len((await choice_of(split, **digits, min_tokens=20))["text"]) >= 20
    ended = {"logit_bias": {"2": 100}}
    assert len((await choice_of(split, **digits, **ended))["text"]) == 1
    assert len((await choice_of(split, **digits, **ended, ignore_eos=True))["text"]) == 30
    # nothing may follow ten digits, which are too few
    short = {"structured_outputs": {"regex": "[0-9]{10}"}, "min_tokens": 11, "max_tokens": 50}
    assert (await refused(split, **short))["param"] == "min_tokens"


async def test_a_scored_and_echoed_prompt_goes_before_it(split: Split) -> None:
    fields: dict[str, Any] = {"structured_outputs": {"choice": ["yes"]}, "echo": True, "prompt_logprobs": 1}
    choice = await choice_of(split, **fields)
    assert choice["text"].endswith("yes")
    assert len(choice["prompt_logprobs"]) == len(PROMPT)


async def test_an_answer_without_a_constraint_is_what_it_was(split: Split) -> None:
    before = await choice_of(split, max_tokens=20)
    await choice_of(split, structured_outputs={"regex": DATE})
    assert await choice_of(split, max_tokens=20) == before


async def test_a_grammar_that_gets_too_large_on_its_way_is_an_error_of_the_stream(split: Split) -> None:
    error = await refused(
        split, structured_outputs={"regex": "((a{1,1000}){1,1000}){1,1000}"}, max_tokens=200, ignore_eos=True
    )
    assert (error["code"], error["param"]) == ("grammar_failed", "structured_outputs.regex")


async def test_many_at_once_follow_their_own(split: Split) -> None:
    wanted = [f"{number}{'ab' * number}" for number in range(8)]
    choices = await asyncio.gather(*(choice_of(split, structured_outputs={"choice": [each]}) for each in wanted))
    assert [each["text"] for each in choices] == wanted
