"""Writes the dashboards from panels.py into the Helm chart, with Grafana's own SDK. With --check it only compares."""

import json
import sys
from itertools import count
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef

sys.path.insert(0, str(Path(__file__).parent))
from panels import BOARDS, Board, Graph

DASHBOARDS: Final = Path(__file__).parents[1] / "helm" / "splitlearn" / "files" / "dashboards"
# The dashboard's variable, so that it works with whatever a Grafana calls its Prometheus.
_SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Of the 24 columns; other widths by the number of graphs in a row.
_WIDTH: Final = 8
_WIDTHS: Final = {2: 12, 4: 6}
_HEIGHT: Final = 8


def rendered(board: Board) -> str:
    """A dashboard's JSON."""
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags(["splitlearn"])
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .readonly()
        .tooltip(1)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    numbers = count(1)
    for title, graphs in board.rows.items():
        builder = builder.with_row(dashboard.Row(title).id(next(numbers)))
        for graph in graphs:
            builder = builder.with_panel(_panel(graph, _WIDTHS.get(len(graphs), _WIDTH)).id(next(numbers)))
    return json.dumps(builder.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _panel(graph: Graph, width: int) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(graph.title)
        .unit(graph.unit)
        .min(0)
        .span(width)
        .height(_HEIGHT)
        .datasource(_SOURCE)
        .fill_opacity(5)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if graph.about:
        panel = panel.description(graph.about)
    for number, (name, expr) in enumerate(graph.queries.items()):
        panel = panel.with_target(
            prometheus.Dataquery().expr(expr).legend_format(name).ref_id(chr(ord("A") + number)).range()
        )
    return panel


def main() -> int:
    """Exit code 1 if --check finds a file that is not what panels.py says."""
    stale = []
    for board in BOARDS:
        path, text = DASHBOARDS / f"{board.uid}.json", rendered(board)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    for name in stale:
        print(f"{name} is not what deploy/grafana/panels.py says; run deploy/grafana/generate.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
