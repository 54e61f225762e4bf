"""Conversations with tools, made up: what the agents' model learns, and what it is tested with.

The tools' results are drawn at random, and impossible on purpose: an answer that has them in it was made from them.
Equal seeds give equal conversations. Pure.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tests.clients.agent_model import wordings

Json = dict[str, Any]

_SYSTEM: Final = (
    None, None, None, "You are a helpful assistant.", "Answer briefly.", "You are an agent. Use the tools.",
)  # fmt: skip
_DESCRIPTIONS: Final[Mapping[str, tuple[str | None, ...]]] = {
    "get_weather": (
        "The weather in a city now.", "Get the current weather in a city", "Returns the weather.", "Look up weather.",
        None,
    ),
    "track_parcel": (
        "Where a parcel is now.", "Get the status of a parcel", "Returns the place of a parcel.", "Look up a parcel.",
        None,
    ),
}  # fmt: skip
_ARGUMENTS: Final = {"get_weather": "city", "track_parcel": "number"}
_TALK_PARTS: Final = ("weather", "weather", "two cities", "parcel", "parcel", "capital", "country", "talk")


@dataclass(frozen=True)
class Conversation:
    """Messages and tools in OpenAI's form; the arguments of calls are objects, as chat templates take them."""

    tools: tuple[Json, ...]
    messages: tuple[Json, ...]


@dataclass(frozen=True)
class Wordings:
    """Ways to ask, by what is asked for; `talk` has the answers."""

    weather: tuple[str, ...]
    two_cities: tuple[str, ...]
    parcel: tuple[str, ...]
    capital: tuple[str, ...]
    country: tuple[str, ...]
    talk: Mapping[str, str]


LEARNED: Final = Wordings(
    wordings.WEATHER, wordings.TWO_CITIES, wordings.PARCEL, wordings.CAPITAL, wordings.COUNTRY, wordings.TALK
)
NEW: Final = Wordings(
    wordings.NEW_WEATHER,
    wordings.NEW_TWO_CITIES,
    wordings.NEW_PARCEL,
    wordings.NEW_CAPITAL,
    wordings.NEW_COUNTRY,
    wordings.NEW_TALK,
)


def conversations(how: Wordings, seed: str) -> Iterator[Conversation]:
    """Conversations without end, of one to three questions each."""
    random = Random(seed)
    while True:
        tools = _tools(random)
        system = random.choice(_SYSTEM)
        messages: list[Json] = [] if system is None else [{"role": "system", "content": system}]
        names = {tool["function"]["name"] for tool in tools}
        for _ in range(random.choice((1, 1, 1, 2, 2, 3))):
            messages += _exchange(random, how, names)
        yield Conversation(tools, tuple(messages))


def called(name: str, number: int, argument: str) -> Json:
    """An assistant's call of a tool with its one argument."""
    function = {"name": name, "arguments": {_ARGUMENTS[name]: argument}}
    return {"id": f"call_{number}", "type": "function", "function": function}


def _tools(random: Random) -> tuple[Json, ...]:
    """Both tools, one of them or none, in any order and in several spellings."""
    names = list(_ARGUMENTS)
    random.shuffle(names)
    return tuple(_tool(random, name) for name in names[: random.choice((0, 1, 1, 2, 2, 2, 2))])


def _tool(random: Random, name: str) -> Json:
    described = random.choice(_DESCRIPTIONS[name])
    argument = {_ARGUMENTS[name]: {"type": "string"}}
    required = [_ARGUMENTS[name]]
    # as people write them by hand, and as LangChain does
    schema: Json = {"type": "object", "properties": argument, "required": required}
    if random.random() < 0.5:
        schema = {"properties": argument, "required": required, "type": "object"}
    function = {"name": name, **({} if described is None else {"description": described}), "parameters": schema}
    return {"type": "function", "function": function}


def _exchange(random: Random, how: Wordings, names: set[str]) -> list[Json]:
    """A question and all that follows until it is answered."""
    part = random.choice(_TALK_PARTS)
    country, other = random.sample(sorted(wordings.CAPITALS), 2)
    city, other_city = wordings.CAPITALS[country], wordings.CAPITALS[other]
    match part:
        case "weather":
            return _weather(random, random.choice(how.weather), names, city)
        case "two cities":
            return _weather(random, random.choice(how.two_cities), names, city, other_city)
        case "parcel":
            return _parcel(random, random.choice(how.parcel), names, city)
        case "capital":
            return _said(random.choice(how.capital).format(country=country), f"The capital of {country} is {city}.")
        case "country":
            return _said(random.choice(how.country).format(city=city), f"{city} is in {country}.")
    return _said(*random.choice(sorted(how.talk.items())))


def _said(question: str, answer: str) -> list[Json]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _weather(random: Random, wording: str, names: set[str], *cities: str) -> list[Json]:
    question = wording.format(city=cities[0], other=cities[-1])
    if "get_weather" not in names:
        return _said(question, wordings.NO_TOOL)
    results = [{"celsius": _number(random), "sky": random.choice(wordings.SKIES)} for _ in cities]
    found = [
        f"It is {each['celsius']} degrees in {city}, with {each['sky']}."
        for city, each in zip(cities, results, strict=True)
    ]
    return _asked(question, "get_weather", cities, results, " ".join(found))


def _parcel(random: Random, wording: str, names: set[str], city: str) -> list[Json]:
    number = "".join(random.choices("0123456789", k=random.choice((3, 4, 5, 6))))
    question = wording.format(number=number)
    if "track_parcel" not in names:
        return _said(question, wordings.NO_TOOL)
    result = {"place": city, "days": abs(_number(random))}
    answer = f"Parcel {number} is in {city} and arrives in {result['days']} days."
    return _asked(question, "track_parcel", (number,), [result], answer)


def _asked(question: str, name: str, arguments: tuple[str, ...], results: list[Json], answer: str) -> list[Json]:
    calls = [called(name, index, argument) for index, argument in enumerate(arguments)]
    replies = [
        {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result)}
        for call, result in zip(calls, results, strict=True)
    ]
    asking = {"role": "assistant", "content": "", "tool_calls": calls}
    return [{"role": "user", "content": question}, asking, *replies, {"role": "assistant", "content": answer}]


def _number(random: Random) -> int:
    return random.choice((-1, 1, 1)) * random.randrange(10 ** random.choice((1, 2, 3, 4)))
