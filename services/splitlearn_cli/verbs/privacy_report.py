"""`splitlearn privacy-report`: how much a trunk worker can read off what it is sent, keeps and returns."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn_cli.errors import BadUsage
from splitlearn_cli.flags import Flag, Repeated, read_by
from splitlearn_cli.logs import quiet
from splitlearn_cli.terminal import StatusLine, aligned, note

if TYPE_CHECKING:
    from cleangpt.tokenizers import BaseTokenizer
    from splitlearn_privacy.report import Report
    from splitlearn_privacy.texts import Document
    from splitlearn_privacy.timing import Timing

_LEAKED = 1


def parse_noises(text: str) -> tuple[float, ...]:
    """Levels with commas between them, such as 0,0.1,0.3. Raises ValueError."""
    try:
        noises = tuple(float(each) for each in text.split(","))
    except ValueError:
        raise ValueError("a level of noise is a number, such as 0.1") from None
    if not all(0 <= each < float("inf") for each in noises):
        raise ValueError("a level of noise is 0 or more")
    return noises


def parse_codecs(text: str) -> tuple[str, ...]:
    """Names with commas between them, such as none,int8. Raises ValueError."""
    from splitlearn_comm.core.registry import CODECS

    names = tuple(each.strip() for each in text.split(","))
    if unknown := [each for each in names if each not in CODECS]:
        raise ValueError(f"unknown codec {unknown[0]!r}; expected some of {', '.join(CODECS)}")
    return names


class Settings(BaseSettings):
    """The model, the texts, and what is compared."""

    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_PRIVACY_REPORT_", frozen=True, extra="forbid")

    weights: Path = Field(description="Sepweight directory with all layers.")
    layers: Repeated = Field(
        (),
        description="The trunk's layers, for example 2-22; repeat the flag to compare cuts. Default: the default cut.",
    )
    codec: Annotated[str, read_by(parse_codecs)] = Field(
        "none", description="Codecs of rows to compare, for example none,int8."
    )
    noise: Annotated[str, read_by(parse_noises)] = Field(
        "0",
        description="Noise on outgoing rows to compare, for example 0,0.1,0.3: its standard deviation relative to the "
        "root mean square of a row.",
    )
    text: str = Field(
        "python-documentation",
        description="Texts to train attacks on and to read, never the same: a file, a folder, or a registered name.",
    )
    column: str = Field("text", description="Column of the records, where the texts are in a table.")
    public: Path | None = Field(
        None,
        description="Sepweight directory of the model whose weights the worker has, where WEIGHTS has ends of its own.",
    )
    known_pairs: bool = Field(
        False,
        description="With --public: the worker also has texts with the rows that the client's ends made of them.",
    )
    tokens: int = Field(24, ge=2, le=4096, description="Tokens of each text.")
    training_texts: int = Field(1000, ge=16, description="Most texts that attacks are trained on.")
    test_texts: int = Field(32, ge=2, description="Most texts that attacks read.")
    num_speculative_tokens: int = Field(7, ge=1, le=7, description="As for the client: guesses in a frame.")
    timed_texts: int = Field(
        16,
        ge=0,
        description="Most answers that a client and a worker on this machine write, --tokens of each, to see what "
        "times of frames tell; 0 for none.",
    )
    frame_interval: float = Field(
        0.05, gt=0, le=20, description="Seconds, as for the client: frames are timed without it and with it."
    )
    seed: int = Field(0, ge=0, description="Of noise and training.")
    max_leakage: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Exit with 1 where an attack names a greater share of the tokens that the client sent; for CI.",
    )
    out: Annotated[Path | None, Flag("-o")] = Field(
        None, description="Directory for report.json and, where matplotlib is installed, the plots."
    )


def run(settings: Settings) -> int:
    """Attacks of rising strength read the texts off outgoing rows, keys and values, and returned rows.

    All numbers are lower bounds: an attacker may do better. It takes minutes for each cut, codec and level of noise.
    """
    if settings.known_pairs and settings.public is None:
        raise BadUsage("--known-pairs goes with --public: without it the worker has the client's own weights")
    if settings.out is not None:
        _make_directory(settings.out)
    from cleangpt.tokenizers import create_tokenizer
    from splitlearn_privacy.report import Grid, Worker, measure
    from splitlearn_privacy.texts import Texts, documents
    from splitlearn_privacy.traffic import traces

    status = StatusLine()
    grid = Grid(settings.layers or (None,), parse_codecs(settings.codec), parse_noises(settings.noise))
    tokenizer = create_tokenizer("hugging_face", folder=settings.weights)
    found = documents(settings.text, tokenizer, settings.column)
    texts = Texts.cut(found, settings.tokens, settings.training_texts, settings.test_texts)
    ends = _end_tokens(settings.weights, tokenizer)
    name = settings.weights.resolve().name
    try:
        report = measure(
            settings.weights,
            texts,
            grid,
            Worker(settings.public, settings.known_pairs),
            name=name,
            source=settings.text,
            seed=settings.seed,
            step=status.show,
        )
        report = replace(report, traces=tuple(traces(found, settings.num_speculative_tokens, ends)))
        if report.traces and settings.timed_texts:
            timings = _timings(settings, report.cells[0].layers, found, status)
            report = replace(report, timings=tuple(timings))
    finally:
        status.clear()
    _show(report)
    if settings.out is not None:
        _write(report, settings.out)
    return _judged(report, settings.max_leakage)


def _make_directory(out: Path) -> None:
    """Before minutes of work, whose numbers would be lost."""
    if out.exists() and not out.is_dir():
        raise BadUsage(f"--out {out} is a file; name a directory")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadUsage(f"--out {out} cannot be made ({error.strerror}); name another directory") from error


def _end_tokens(weights: Path, tokenizer: "BaseTokenizer") -> frozenset[int]:
    """Those that end an answer of the client."""
    from llm_sepweight import Manifest
    from splitlearn.model.layout import config_from_dict
    from splitlearn_client.app import end_tokens

    return end_tokens(weights, config_from_dict(Manifest.read(weights).config), tokenizer.fast.eos_token_id)


def _timings(settings: Settings, layers: str, found: "Sequence[Document]", status: StatusLine) -> "Iterator[Timing]":
    """What times of frames tell; nothing where the model's context has no room for two of the conversations."""
    from splitlearn_comm import event_loop
    from splitlearn_privacy.recording import Setup, Writing, record
    from splitlearn_privacy.timing import timing
    from splitlearn_privacy.traffic import Frames

    writing = Writing(settings.timed_texts, settings.tokens, settings.num_speculative_tokens, settings.seed)
    setups = [Setup(frames, interval) for interval in (0.0, settings.frame_interval) for frames in Frames]
    with quiet():
        recorded = event_loop.run(record(settings.weights, layers, found, writing, setups, status.show))
    for setup, both in recorded.items():
        yield timing(setup, *both)


def _show(report: "Report") -> None:
    from splitlearn_privacy import rendering

    print(rendering.title(report))
    print(rendering.LOWER_BOUND if report.knows_texts else rendering.UNKNOWN_TEXT)
    for cell in report.cells:
        print(f"\n{rendering.costs_line(cell)}")
        if cell.leaks:
            print(aligned([rendering.HEADING, *rendering.rows(cell)]))
    if report.traces:
        print(f"\n{rendering.traces_line(report)}")
        print(aligned([rendering.TRACES_HEADING, *rendering.trace_rows(report)]))
    if report.timings:
        print(f"\n{rendering.timings_line(report)}")
        print(aligned([rendering.TIMINGS_HEADING, *rendering.timing_rows(report)]))


def _write(report: "Report", out: Path) -> None:
    from splitlearn_privacy import rendering

    (out / "report.json").write_text(json.dumps(rendering.as_json(report), indent=1) + "\n", encoding="utf-8")
    if report.knows_texts:
        from splitlearn_privacy.plots import plot_cuts, plot_utility

        plot_cuts(report, out / "leakage_by_cut.png")
        plot_utility(report, out / "leakage_by_utility.png")
    note(f"written to {out}")


def _judged(report: "Report", most: float | None) -> int:
    from splitlearn_privacy import rendering

    if most is None:
        return 0
    worst = report.worst
    if worst is None:
        raise BadUsage("--max-leakage has nothing to compare with: the model does not know the texts")
    if worst.score.top_1.value <= most:
        return 0
    note(f"{rendering.verdict(worst)}: more than the {most:.0%} of --max-leakage")
    return _LEAKED
