"""Requests of all kinds that `/v1/completions` and `/v1/chat/completions` take, drawn at random by a seed.

Pure: a seed, a number and a material always give the same request. Answers are short, so that thousands can be had.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from support.random_forms import random_form

Json = dict[str, Any]

CHAT: Final = "/v1/chat/completions"
COMPLETION: Final = "/v1/completions"
_SHORTEST: Final = 4
_FIRST_ID: Final = 3
_STOPS: Final = (".", ",", " the", "e", " of", "s ", " is a", "\n", '"', "}", "zz")
_BAD_WORDS: Final = ("the", "a", "Return", "is", "of", "e")
_FOLLOW_UPS: Final = ("Say that again.", "And then?", "What does zip do?", "No.", "Once more, please.")


@dataclass(frozen=True)
class Material:
    """What a model's requests are made of.

    Attributes:
        model: its name in requests.
        pairs: questions, with the answers that the model knows, or may repeat.
        vocabulary: the number of its token ids.
        context: tokens of prompt and answer together, at most.
        tools: sets of tools, in OpenAI's form; none for a model whose chat template knows none.
        has_system: whether its chat template writes system messages.
        longest: what `max_tokens` is at most.
    """

    model: str
    pairs: Sequence[tuple[str, str]]
    vocabulary: int
    context: int
    tools: Sequence[Sequence[Json]] = ()
    has_system: bool = False
    longest: int = 48


@dataclass(frozen=True)
class Request:
    """One turn.

    Attributes:
        number: of the conversation.
        later: what is said in the turns after this one.
    """

    number: int
    path: str
    body: Json
    later: tuple[str, ...] = ()

    @property
    def kinds(self) -> list[str]:
        """What it asks for, by the names of its fields and of the forms of structured output."""
        inner = [self.body.get(name, {}) for name in ("structured_outputs", "response_format")]
        forms = [*inner[0], *filter(None, [inner[1].get("type")])]
        greedy = ["greedy"] if not self.body["temperature"] else []
        prompt = self.body.get("prompt")
        ids = ["prompt of ids"] if isinstance(prompt, list) and isinstance(prompt[0], int) else []
        return [self.path, *self.body, *forms, *greedy, *ids]


@dataclass(frozen=True)
class _Scene:
    """What of a request is known before its options are drawn."""

    material: Material
    is_chat: bool
    is_streamed: bool
    max_tokens: int


_Option = Callable[[Random, _Scene], Json]


def random_request(seed: int, number: int, material: Material) -> Request:
    """The first turn of the conversation of that number."""
    dice = Random(f"{seed} {number}")
    max_tokens = round(_SHORTEST * (material.longest / _SHORTEST) ** dice.random())
    scene = _Scene(material, dice.random() < 0.5, dice.random() < 0.4, max_tokens)
    body: Json = {"model": material.model, "max_tokens": max_tokens, **_temperature(dice)}
    if scene.is_streamed:
        usage = {"include_usage": True, "continuous_usage_stats": dice.random() < 0.3}
        body |= {"stream": True, **({"stream_options": usage} if dice.random() < 0.7 else {})}
    for chance, option in _OPTIONS:
        if dice.random() < chance:
            body |= option(dice, scene)
    body |= _messages(dice, material) if scene.is_chat else {"prompt": _prompt(dice, material)}
    follows = scene.is_chat or isinstance(body["prompt"], str)
    n_later = dice.choice((0, 0, 0, 1, 1, 2)) if follows else 0
    return Request(number, CHAT if scene.is_chat else COMPLETION, body, tuple(dice.choices(_FOLLOW_UPS, k=n_later)))


def next_turn(request: Request, text: str, calls: Sequence[Json] = ()) -> Request | None:
    """What is asked after an answer with that text and those calls; None at the end of the conversation."""
    if not request.later:
        return None
    said, *later = request.later
    if request.path == COMPLETION:
        before = "" if request.body.get("echo") else request.body["prompt"]
        body = {**request.body, "prompt": f"{before}{text} {said}"}
    else:
        answer = {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {})}
        results = [{"role": "tool", "tool_call_id": call["id"], "content": '{"celsius": 7}'} for call in calls]
        turn = [answer, *results, {"role": "user", "content": said}]
        body = {**request.body, "messages": [*request.body["messages"], *turn]}
    return replace(request, body=body, later=tuple(later))


def _temperature(dice: Random) -> Json:
    if dice.random() < 0.4:
        return {"temperature": 0}
    return {"temperature": round(dice.uniform(0.2, 1.6), 2), "seed": dice.randrange(-5, 1 << 32)}


def _filters(dice: Random, _scene: _Scene) -> Json:
    drawn: Json = {"top_p": round(dice.uniform(0, 1), 2), "top_k": dice.choice((1, 2, 5, 40)), "min_p": 0.1}
    return _some(dice, drawn)


def _penalties(dice: Random, _scene: _Scene) -> Json:
    drawn = {
        "frequency_penalty": round(dice.uniform(-1, 2), 2),
        "presence_penalty": round(dice.uniform(-1, 2), 2),
        "repetition_penalty": round(dice.uniform(0.8, 1.5), 2),
    }
    return _some(dice, drawn)


def _bias(dice: Random, scene: _Scene) -> Json:
    biases = {str(each): dice.choice((-100, -4, 2, 6)) for each in _ids(dice, scene.material, dice.randint(1, 30))}
    return {"logit_bias": biases}


def _only_some(dice: Random, scene: _Scene) -> Json:
    allowed = _ids(dice, scene.material, dice.choice((2, 40, 400)))
    return dice.choice(({"allowed_token_ids": allowed}, {"bad_words": dice.sample(_BAD_WORDS, 3)}))


def _logprobs(dice: Random, scene: _Scene) -> Json:
    n = dice.choice((0, 1, 5))
    return {"logprobs": True, "top_logprobs": n} if scene.is_chat else {"logprobs": n}


def _of_the_prompt(dice: Random, scene: _Scene) -> Json:
    drawn: list[Json] = [{"cache_salt": dice.choice("abc")}, {"truncate_prompt_tokens": dice.choice((-1, 5, 40))}]
    drawn += [] if scene.is_chat else [{"echo": True}, {"echo": True}]
    drawn += [] if scene.is_streamed else [{"prompt_logprobs": dice.choice((0, 2))}]
    return dice.choice(drawn)


def _several(dice: Random, scene: _Scene) -> Json:
    if not scene.is_chat and not scene.is_streamed and dice.random() < 0.3:
        return {"n": 1, "best_of": 3}
    return {"n": dice.randint(2, 3)}


def _least(dice: Random, scene: _Scene) -> Json:
    return {"min_tokens": dice.randint(1, scene.max_tokens)}


def _stop(dice: Random, _scene: _Scene) -> Json:
    stops = dice.sample(_STOPS, dice.randint(1, 4))
    return {"stop": stops if len(stops) > 1 else stops[0], **_some(dice, {"include_stop_str_in_output": True})}


def _stop_ids(dice: Random, scene: _Scene) -> Json:
    return {"stop_token_ids": _ids(dice, scene.material, dice.choice((1, 20, 200)))}


def _no_end(_dice: Random, _scene: _Scene) -> Json:
    return {"ignore_eos": True}


def _all_ids(_dice: Random, _scene: _Scene) -> Json:
    return {"return_token_ids": True}


def _form(dice: Random, _scene: _Scene) -> Json:
    return random_form(dice)


def _tools(dice: Random, scene: _Scene) -> Json:
    if not scene.is_chat or not scene.material.tools:
        return {}
    tools = list(dice.choice(scene.material.tools))
    named = {"type": "function", "function": {"name": dice.choice(tools)["function"]["name"]}}
    choice = dice.choice(("auto", "required", named, named, "none"))
    return {"tools": tools, "tool_choice": choice, **_some(dice, {"parallel_tool_calls": False})}


_OPTIONS: Final[Sequence[tuple[float, _Option]]] = (
    (0.4, _filters),
    (0.25, _penalties),
    (0.15, _bias),
    (0.06, _only_some),
    (0.35, _logprobs),
    (0.15, _of_the_prompt),
    (0.1, _several),
    (0.12, _least),
    (0.2, _stop),
    (0.15, _stop_ids),
    (0.2, _no_end),
    (0.7, _all_ids),
    (0.25, _form),
    (0.5, _tools),
)


def _messages(dice: Random, material: Material) -> Json:
    """A question, one that is asked again behind its answer, or talk that repeats nothing."""
    question, answer = dice.choice(material.pairs)
    messages = [{"role": "system", "content": "Answer briefly."}] if material.has_system and dice.random() < 0.5 else []
    asked = {"role": "user", "content": question}
    match dice.choice(("once", "again", "again", "talk")):
        case "again":
            messages += [asked, {"role": "assistant", "content": answer}] * dice.randint(1, 2)
        case "talk":
            asked = {"role": "user", "content": _words(dice, dice.randint(1, 12))}
    return {"messages": [*messages, asked]}


def _prompt(dice: Random, material: Material) -> str | list[Any]:
    """A text or ids, or several texts; most repeat themselves."""
    text = " ".join(dice.choice(material.pairs))
    match dice.choice(("once", "again", "again", "words", "ids", "same ids", "long", "several")):
        case "again":
            return f"{text} {text} {text}"[: -dice.randint(1, len(text))]
        case "words":
            return _words(dice, dice.randint(1, 30))
        case "ids":
            return _ids(dice, material, dice.randint(1, 60))
        case "same ids":
            return (_ids(dice, material, dice.randint(1, 9)) * 20)[: dice.randint(9, 60)]
        case "long" if dice.random() < 0.1:
            # up to the end of the context, and a token beyond it
            n_ids = material.context + 1 - dice.randint(0, material.longest)
            return (_ids(dice, material, dice.randint(3, 30)) * n_ids)[:n_ids]
        case "several":
            return [text, _words(dice, 5), text]
    return text


def _ids(dice: Random, material: Material, count: int) -> list[int]:
    return [dice.randrange(_FIRST_ID, material.vocabulary) for _ in range(count)]


def _words(dice: Random, count: int) -> str:
    """That no text has."""
    return " ".join("".join(dice.choices("abcdefghijklmnopqrstuvwxyzé0", k=dice.randint(1, 8))) for _ in range(count))


def _some(dice: Random, fields: Mapping[str, Any]) -> Json:
    return {name: value for name, value in fields.items() if dice.random() < 0.6}
