"""Draws the dashboards as a Prometheus fills them that watched a run, one picture each: pictures.py ADDRESS FOLDER.

Not as Grafana does in all things, but near enough to see what a panel shows.
"""

import math
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

from api import Line, Prometheus
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from sources import Panel, Query, dashboards, panels

#: Inches of one of the grid's 24 columns, and of a row.
COLUMN, ROW = 0.95, 0.5


def worded(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "bytes":
        size = max((it for it in range(5) if abs(value) >= 1024**it), default=0)
        return f"{value / 1024**size:.3g} {['B', 'KiB', 'MiB', 'GiB', 'TiB'][size]}"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.4g}{ {'s': ' s', 'cps': ' /s', 'cpm': ' /min', 'binBps': ' B/s'}.get(unit, '') }"


def named(query: Query, line: Line) -> str:
    legend = query.legend
    for label, value in line.labels.items():
        legend = legend.replace(f"{{{{{label}}}}}", value)
    return legend


def with_gaps(line: Line, step: int) -> list[tuple[float, float]]:
    """What is not there shall not be drawn."""
    points: list[tuple[float, float]] = []
    for at, value in line.figures:
        if points and at - points[-1][0] > 1.5 * step:
            points.append((points[-1][0] + step, math.nan))
        points.append((at, value))
    return points


def colour(value: float, steps: list[dict[str, Any]]) -> str:
    passed = [it["color"] for it in steps if it["value"] is None or value >= it["value"]]
    return {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}.get(passed[-1] if passed else "", "#eeeeee")


def draw_tile(axes: Axes, panel: Panel, prometheus: Prometheus) -> None:
    defaults = panel.whole["fieldConfig"]["defaults"]
    points = [it for line in prometheus.asked(panel, panel.queries[0]) for it in line.figures]
    last = next((value for at, value in points if at > prometheus.end - 2 * prometheus.step), None)
    axes.set_xticks([])
    axes.set_yticks([])
    if len(defaults["thresholds"]["steps"]) > 1 and last is not None:
        axes.set_facecolor(colour(last, defaults["thresholds"]["steps"]))
    words = defaults["noValue"] if last is None else worded(last, defaults["unit"])
    axes.text(0.5, 0.45, words, ha="center", va="center", fontsize=16, transform=axes.transAxes)


def draw_graph(axes: Axes, panel: Panel, prometheus: Prometheus) -> None:
    settings = panel.whole["fieldConfig"]["defaults"]
    custom, unit = settings.get("custom", {}), settings["unit"]
    below: dict[float, float] = {}
    is_stacked = custom.get("stacking", {}).get("mode") == "normal"
    for query in panel.queries:
        for line in prometheus.asked(panel, query):
            points = with_gaps(line, prometheus.step)
            bottom = [below.get(at, 0.0) if is_stacked else 0 for at, _ in points]
            top = [value + under for (_, value), under in zip(points, bottom, strict=True)]
            below.update((at, it) for (at, _), it in zip(points, top, strict=True) if math.isfinite(it))
            times = [datetime.fromtimestamp(at, timezone.utc) for at, _ in points]
            (drawn,) = axes.plot(times, top, lw=0.9, marker=".", ms=1.5, label=named(query, line))
            if is_stacked:
                axes.fill_between(times, bottom, top, alpha=0.3, lw=0, color=drawn.get_color())
    if custom.get("scaleDistribution", {}).get("type") == "log":
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
        if "axisSoftMax" in custom:
            axes.set_ylim(top=max(axes.get_ylim()[1], custom["axisSoftMax"]))
    for step in settings.get("thresholds", {}).get("steps", [])[1:]:
        if step["value"] <= axes.get_ylim()[1]:
            axes.axhline(step["value"], color=step["color"], ls="--", lw=0.8)
    axes.set_xlim(*(datetime.fromtimestamp(at, timezone.utc) for at in (prometheus.begin, prometheus.end)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: worded(value, unit)))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    axes.tick_params(labelsize=6)
    axes.grid(alpha=0.2)
    if axes.lines:
        axes.legend(fontsize=5, ncol=2, loc="upper left", framealpha=0.5)


def draw(name: str, prometheus: Prometheus) -> Figure:
    dashboard = dashboards()[name]
    height = max(it["gridPos"]["y"] + it["gridPos"]["h"] for it in dashboard["panels"])
    figure = pyplot.figure(figsize=(24 * COLUMN, height * ROW))
    grid = figure.add_gridspec(height, 24, left=0.02, right=0.995, bottom=0.01, top=0.97, wspace=2.2, hspace=2)
    figure.suptitle(dashboard["title"])
    for panel in panels(name):
        at = panel.whole["gridPos"]
        axes = figure.add_subplot(grid[at["y"] : at["y"] + at["h"], at["x"] : at["x"] + at["w"]])
        axes.set_title(panel.title, fontsize=8, loc="left")
        (draw_tile if panel.whole["type"] == "stat" else draw_graph)(axes, panel, prometheus)
    return figure


def main(address: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    prometheus = Prometheus.that_has_seen_all(address)
    for name in dashboards():
        figure = draw(name, prometheus)
        figure.savefig(folder / f"{name}.png", dpi=90)
        pyplot.close(figure)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
