"""Every metric of both services is named as Prometheus wants it, by promtool's rules, and by promtool where it is."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from splitlearn_trunk.exporter import exported
from splitlearn_trunk.listening import address_of, bound
from support.running_split import Split

# As promtool has them: prometheus/client_golang, prometheus/testutil/promlint/validations.
_ABBREVIATED: Final = {*["s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"]}
_NOT_BASE: Final = {
    *["milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "weeks"],
    *["kilobytes", "megabytes", "gigabytes", "terabytes", "kibibytes", "mebibytes", "gibibytes", "bits"],
    *["percent", "percentage", "fahrenheit", "kelvins"],
}
_KINDS: Final = {*["gauge", "counter", "histogram", "summary", "untyped"]}
_RESERVED: Final = {"bucket", "count", "sum"}
_SNAKE: Final = re.compile(r"[a-z_][a-z0-9_]*")


def complaints(text: str) -> Iterator[str]:
    """What promtool would complain about in this exposition."""
    seen: set[str] = set()
    for family in text_string_to_metric_families(text):
        # the parser takes the ending of counters away
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if name in seen:
            yield f"{name}: twice"
        seen.add(name)
        yield from (f"{name}: {said}" for said in _complaints(family, name))
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    for name, kind in types.items():
        if (kind == "counter") != name.endswith("_total"):
            yield f"{name}: counters, and nothing else, end in _total"


def _complaints(family: Metric, name: str) -> Iterator[str]:
    words = name.split("_")
    labels = {label for sample in family.samples for label in sample.labels}
    if not family.documentation:
        yield "no help text"
    if unit := _NOT_BASE.intersection(words):
        yield f"not a base unit: {unit}"
    if unit := _ABBREVIATED.intersection(words):
        yield f"an abbreviated unit: {unit}"
    if kind := _KINDS.intersection(words):
        yield f"its type in its name: {kind}"
    if not all(_SNAKE.fullmatch(each) for each in (name, *labels)):
        yield "not in snake_case"
    if family.type not in ("histogram", "summary") and words[-1] in _RESERVED:
        yield f"an ending of histograms: {words[-1]}"
    if family.type != "histogram" and "le" in labels:
        yield "a label of histograms"


async def _expositions(split: Split) -> tuple[str, str]:
    """What Prometheus reads from trunk and client after a request that went well, and one that did not."""
    assert (await split.client.complete(prompt="the quick brown fox", max_tokens=2)).status_code == 200
    await split.client.complete(prompt="the quick brown fox", model="nobody")
    listening = bound("127.0.0.1", 0, "--metrics-port")
    with exported(split.trunk.trunk.metrics.registry, listening):
        trunk = await split.client.http.get(f"http://127.0.0.1:{address_of(listening)[1]}/metrics")
    return trunk.text, (await split.client.http.get("/metrics")).text


async def test_every_metric_is_named_as_prometheus_wants_it(split: Split) -> None:
    for text, own in zip(await _expositions(split), ("splitlearn_trunk_", "splitlearn_client_"), strict=True):
        assert list(complaints(text)) == []
        assert text.count(f"# HELP {own}") > 10


async def test_every_metric_is_documented(split: Split) -> None:
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    for text, own in zip(await _expositions(split), ("splitlearn_trunk_", "splitlearn_client_"), strict=True):
        names = re.findall(rf"^# TYPE {own}(\S+) ", text, re.MULTILINE)
        assert [name for name in names if not name.endswith("_created") and f"`{name}" not in page] == []


async def test_promtool_has_no_complaint(split: Split) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool: Debian has it in the package prometheus")
    for text in await _expositions(split):
        assert await asyncio.to_thread(_promtool, text) == (0, "")


def _promtool(text: str) -> tuple[int, str]:
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    return checked.returncode, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("kv_pages_total", "gauge", "_total"),
        ("rows", "counter", "_total"),
        ("wait_ms", "gauge", "abbreviated"),
        ("wait_milliseconds", "gauge", "base unit"),
        ("open_gauge", "gauge", "type in its name"),
        ("openSessions", "gauge", "snake_case"),
        ("open_count", "gauge", "ending of histograms"),
    ],
)
def test_the_rules_are_those_of_promtool(name: str, kind: str, said: str) -> None:
    text = f"# HELP {name} Some.\n# TYPE {name} {kind}\n{name} 1\n"
    assert any(said in complaint for complaint in complaints(text))
    if shutil.which("promtool"):
        assert _promtool(text)[0] != 0
