"""PromQL against docs/metrics.md: which metrics and labels of a query exist."""

import re
from typing import Final

from support.helm_chart import ROOT

# those of Prometheus and of the ServiceMonitor
TARGET_LABELS: Final = {"instance", "job", "namespace", "pod", "app_kubernetes_io_instance", "splitlearn_stage"}


def documented() -> dict[str, set[str]]:
    """The series in docs/metrics.md with their own labels. (A test of the services compares that page with them.)"""
    found: dict[str, set[str]] = {}
    prefix = ""
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        if match := re.match(r"The prefix is `(\w+)`", line):
            prefix = match[1]
        if not prefix or not (row := re.match(r"\| (`.*?) \| (\w+) \|", line)):
            continue
        for name, labels in re.findall(r"`(\w+)(?:\{([\w,]+)\})?`", row[1]):
            own = {*labels.split(",")} - {""} | ({"model_name"} if "(vLLM)" in row[1] else set())
            found |= {f"{prefix}{name}": own}
            if row[2] == "histogram":
                found |= {f"{prefix}{name}_{part}": own | {"le"} for part in ("bucket", "sum", "count")}
    return found


def unknown(query: str) -> list[str]:
    """Metrics of a query that do not exist, and labels that its metrics do not have."""
    known = documented()
    named = re.findall(r"(splitlearn_(?:trunk|client)_\w+)(?:\{([^}]*)\})?", query)
    assert named, query
    wrong = [name for name, _ in named if name not in known]
    for name, selectors in named:
        labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selectors)
        wrong += [f"{name}{{{label}}}" for label in labels if label not in known.get(name, set()) | TARGET_LABELS]
    grouped = {
        label
        for labels in re.findall(r"(?:by|without|ignoring)\s*\(([\w, ]*)\)", query)
        for label in labels.split(", ")
    }
    return wrong + sorted(grouped - TARGET_LABELS - set().union(*(known.get(name, set()) for name, _ in named)))
