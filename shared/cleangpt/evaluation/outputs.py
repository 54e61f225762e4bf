"""Where the report of an evaluation goes."""

from pathlib import Path

from cleangpt.evaluation.report import Report

NUMBERS_FILE, PLOT_FILE = "report.json", "report.png"


def write_report(
    report: Report, json_file: Path | None = None, plot: Path | None = None, folder: Path | None = None
) -> list[str]:
    """Writes the numbers and the plot to the files, and both into `folder`. Returns a line for each file written."""
    numbers = [each for each in (json_file, folder and folder / NUMBERS_FILE) if each is not None]
    plots = [each for each in (plot, folder and folder / PLOT_FILE) if each is not None]
    for file in numbers:
        report.write_json(file)
    for file in plots:
        # matplotlib is slow to import
        from cleangpt.evaluation.plots import plot_report

        plot_report(report, file)
    return [*(f"numbers: {file}" for file in numbers), *(f"plot: {file}" for file in plots)]
