"""`make bench-wan`: tokens a second with a trunk that is far away, with guesses and without, and whether they agree.

A model, by default the one that ships, on questions that this one knows: each asked once, and asked again in a chat
that has its answer. With `--code` the model of `code_model/train.toml`, on functions that it never learned from. The
sides take turns; the trunk is behind a relay that delays both directions.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx

from cleangpt.data.stdlib_questions import collect_questions
from support.far_link import Network, far_away
from tests.benchmarks.code_model.editing import REPEATING, conversations, functions
from tests.benchmarks.code_model.material import HELD_OUT
from tests.benchmarks.contenders import ROOT, running, wait_until_ready

_NAME: Final = "demo"
_TRUNK, _METRICS, _PLAIN, _GUESSING = 50361, 50362, 50363, 50364
_URLS: Final = {"plain": f"http://127.0.0.1:{_PLAIN}", "guessing": f"http://127.0.0.1:{_GUESSING}"}


@dataclass(frozen=True)
class Model:
    """A sepweight directory, and the layers of it that the trunk has."""

    folder: Path
    layers: str


@dataclass
class Side:
    """What one client gave."""

    tokens_per_second: list[float] = field(default_factory=list)
    trips: int = 0
    guesses: int = 0
    tokens: int = 0
    per_trip: list[float] = field(default_factory=list)
    """Tokens, of each answer."""
    texts: list[str] = field(default_factory=list)

    def ask(self, url: str, messages: Sequence[dict[str, str]], **fields: Any) -> str:
        body = {"model": _NAME, "messages": messages, **fields}
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=600).raise_for_status().json()
        told, text = reply["splitlearn"], reply["choices"][0]["message"]["content"]
        if told["completion_tokens"] > 1:
            self.tokens_per_second.append(told["tokens_per_second"])
        # the first token comes of the prompt's trips
        tokens = told["completion_tokens"] - 1
        trips = tokens - told["accepted_draft_tokens"]
        self.tokens += tokens
        self.trips += trips
        self.guesses += told["draft_tokens"]
        self.per_trip += [tokens / trips] if trips else []
        self.texts.append(text)
        return text


@contextmanager
def clients(model: Model, trunk: str, guessing: Sequence[str]) -> Iterator[None]:
    """Both sides; the one that guesses has these flags."""
    common = ("--trunk", trunk, "--threads", "1", "--layers", model.layers, "--served-model-name", _NAME)
    with ExitStack() as stack:
        for name, url in _URLS.items():
            flags = guessing if name == "guessing" else ()
            words = ("client", str(model.folder), "--port", url.rsplit(":", 1)[1], *common, *flags)
            process = stack.enter_context(running("-m", "splitlearn_cli", "--log-level", "error", *words))
            wait_until_ready(url, process)
        yield


Sides = dict[str, Side]


def measured(questions: Mapping[str, Sequence[str]], fields: dict[str, Any]) -> dict[str, Sides]:
    """By text and side."""
    found = {text: {name: Side() for name in _URLS} for text in questions}
    for text, asked in questions.items():
        for number, question in enumerate(asked):
            for name in sorted(_URLS, reverse=bool(number % 2)):
                found[text][name].ask(_URLS[name], [{"role": "user", "content": question}], seed=number, **fields)
    return found


def asked_again(questions: Sequence[str], sides: Sides, fields: dict[str, Any]) -> Sides:
    """The questions in chats that have these answers to them."""
    found = {name: Side() for name in _URLS}
    for number, question in enumerate(questions):
        for name in sorted(_URLS, reverse=bool(number % 2)):
            asked = {"role": "user", "content": question}
            answered = {"role": "assistant", "content": sides[name].texts[number]}
            found[name].ask(_URLS[name], [asked, answered, asked], seed=number, **fields)
    return found


def of_stdlib(n_questions: int) -> dict[str, list[str]]:
    """Questions that the model that ships knows."""
    known = collect_questions()
    return {"asked once": [each.phrasings[0] for each in known[:: len(known) // n_questions]][:n_questions]}


def of_code(n_questions: int) -> dict[str, list[str]]:
    """Questions about functions that the code model never learned from, by whether the answer is text of the prompt."""
    held_out = functions()[::HELD_OUT]
    found: dict[str, list[str]] = {"repeats its prompt": [], "does not": []}
    for each in conversations(held_out, "asked", 600):
        asked = found["repeats its prompt" if each.kind in REPEATING else "does not"]
        if len(asked) < n_questions:
            asked.append(each.question)
        if all(len(asked) == n_questions for asked in found.values()):
            return found
    raise RuntimeError("conversations never end")


def row_of(milliseconds: float, text: str, sides: Sides) -> dict[str, Any]:
    plain, guessing = sides["plain"], sides["guessing"]
    pairs = zip(guessing.tokens_per_second, plain.tokens_per_second, strict=True)
    return {
        "round trip, ms": milliseconds,
        "text": text,
        "plain, tok/s": median(plain.tokens_per_second),
        "with guesses, tok/s": median(guessing.tokens_per_second),
        "ratio": median(one / other for one, other in pairs),
        "tokens a trip": guessing.tokens / guessing.trips,
        "median of answers": median(guessing.per_trip),
        "guesses a token": guessing.guesses / guessing.tokens,
        "the same": "yes" if plain.texts == guessing.texts else "NO",
    }


@dataclass(frozen=True)
class Asked:
    """What the model is asked.

    Attributes:
        questions: by what kind of text they are.
        fields: of each request.
        again: whether they are asked a second time, behind their answers.
    """

    questions: Mapping[str, Sequence[str]]
    fields: dict[str, Any]
    again: bool


def rows(model: Model, asked: Asked, round_trips: Sequence[float], guessing: Sequence[str]) -> Iterator[dict[str, Any]]:
    trunk = ("trunk", str(model.folder), "--layers", model.layers)
    trunk += ("--port", str(_TRUNK), "--metrics-port", str(_METRICS))
    with running("-m", "splitlearn_cli", "--log-level", "error", *trunk, "--threads", "1"):
        for milliseconds in round_trips:
            with far_away(_TRUNK, Network(milliseconds / 1000)) as address, clients(model, address, guessing):
                for text, sides in measured(asked.questions, asked.fields).items():
                    yield row_of(milliseconds, text, sides)
                    if asked.again:
                        again = asked_again(asked.questions[text], sides, asked.fields)
                        yield row_of(milliseconds, "asked again", again)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.wan", description=__doc__)
    parser.add_argument("--round-trips", type=float, nargs="+", default=[0, 5, 20, 80, 200], help="milliseconds")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--model", type=Path, default=ROOT / "deploy" / "demo_model", help="a sepweight directory")
    parser.add_argument("--layers", default="1-5", help="of the trunk")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--draft-model", type=Path, help="a small model that guesses; default: ngram")
    parser.add_argument("--shadow", type=Path, help="a shadow of the trunk that guesses")
    parser.add_argument("--ngram", action="store_true", help="look up too, beside what guesses by a model")
    parser.add_argument("--code", action="store_true", help="ask about code")
    parser.add_argument("--max-tokens", type=int, default=120)
    given = parser.parse_args()
    models = {"draft_model": given.draft_model, "shadow": given.shadow}
    methods = [name for name, folder in models.items() if folder is not None]
    guessing = [word for name in methods for word in ("--speculative-model", str(models[name]))]
    methods += ["ngram"] if given.ngram or not methods else []
    guessing += ["--speculative-method", ",".join(methods)]
    fields = {"temperature": given.temperature, "max_tokens": given.max_tokens}
    asked = Asked(of_code(given.questions) if given.code else of_stdlib(given.questions), fields, again=not given.code)
    found = []
    for row in rows(Model(given.model, given.layers), asked, given.round_trips, guessing):
        if not found:
            print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}", flush=True)
        found.append(row)
        cells = (f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row.values())
        print(f"| {' | '.join(cells)} |", flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
