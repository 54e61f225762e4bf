"""The provisioned dashboards as Grafana reads them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

GRAFANA: Final = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARDS: Final = GRAFANA.parent / "helm" / "splitlearn" / "files" / "dashboards"


@dataclass(frozen=True)
class Target:
    """One query of one panel."""

    board: str
    row: str
    panel: str
    legend: str
    expr: str

    def over(self, seconds: int) -> str:
        """The query with a range in place of Grafana's variable."""
        return self.expr.replace("$__rate_interval", f"{seconds}s")

    def __str__(self) -> str:
        return f"{self.board}, {self.row}, {self.panel}: {self.expr}"


def boards() -> dict[str, dict[str, Any]]:
    """The committed dashboards by file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def targets() -> list[Target]:
    """Every query of every panel of every dashboard."""
    found, row = [], ""
    for board in boards().values():
        for panel in board["panels"]:
            if panel["type"] == "row":
                row = panel["title"]
            for each in panel.get("targets", ()):
                found.append(Target(board["title"], row, panel["title"], each["legendFormat"], each["expr"]))
    return found
