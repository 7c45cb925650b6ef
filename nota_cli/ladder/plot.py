"""The picture of a ladder: quality against size on disk and against time per token, the best of each joined."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nota_cli.files import atomic_path
from nota_cli.ladder.climb import Plan
from nota_cli.ladder.figures import MEASURES, PRIMARY
from nota_cli.leaderboard.axes import Point, place_labels, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COSTS = {"bytes": ("size on disk, MiB", 1 / 2**20), "tpot_s": ("time per output token, ms", 1000.0)}
MARKERS = {"torch": ("*", "#111111", 13), "onnx": ("o", "#1f4e9c", 8), "gguf": ("s", "#b3541e", 8)}
"""Shape, color and size of each runtime's markers."""
PANEL = 4.4  # inches of height


def draw(rows: Sequence[dict[str, Any]], plan: Plan, path: Path) -> None:
    """Write the picture as a PNG.

    Args:
        rows: of `nota_cli.ladder.table.records`.
        plan: what they are of.
        path: the file.

    Raises:
        UsageError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    measures = [(each.name, name) for each in plan.sets if (name := _measure(rows, each.name, each.task))]
    height = PANEL * max(1, len(measures)) + 0.7
    figure = Figure(figsize=(12, height), dpi=150)
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(max(1, len(measures)), len(COSTS), squeeze=False)
    panels = [
        (axes, points_of(rows, name, measure, cost), MEASURES[measure].lower)
        for line, (name, measure) in zip(grid, measures, strict=False)
        for axes, cost in zip(line, COSTS, strict=True)
    ]
    for line, (name, measure) in zip(grid, measures, strict=False):
        for axes, (label, _) in zip(line, COSTS.values(), strict=True):
            _titles(axes, name, measure, label)
    for axes, points, lower in panels:
        _panel(axes, points, lower)
    used = [name for name in MARKERS if any(row["runtime"] == name and row["sets"] for row in rows)]
    handles = [
        Line2D([], [], marker=MARKERS[name][0], color=MARKERS[name][1], linestyle="none", label=name) for name in used
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(used), frameon=False, fontsize=9)
    figure.suptitle(f"{plan.recipe.name}: e and d are bits of encoders and decoder; bold and joined: Pareto-best")
    figure.subplots_adjust(left=0.07, right=0.98, top=1 - 0.7 / height, bottom=0.9 / height, wspace=0.17, hspace=0.32)
    canvas.draw()  # type: ignore[no-untyped-call]
    for axes, points, lower in panels:
        best = pareto_best([point for _, point in points], lower)
        names = [row["rung"].removeprefix(f"{row['runtime']}-") for row, _ in points]
        place_labels(figure, axes, [point for _, point in points], names, best)
    with atomic_path(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})


def points_of(rows: Sequence[dict[str, Any]], name: str, measure: str, cost: str) -> list[tuple[dict[str, Any], Point]]:
    """Records that have both figures, and where they stand: cost in the panel's unit, then quality."""
    points = []
    for row in rows:
        quality = row["sets"].get(name, {}).get("figures", {}).get(measure)
        if quality is not None and row[cost] is not None:
            points.append((row, (row[cost] * COSTS[cost][1], quality["value"])))
    return points


def pareto_best(points: Sequence[Point], lower: bool) -> list[bool]:
    """Which points no other one beats: as cheap and as good, and better in one of the two.

    Args:
        points: cost, of which less is better, and quality.
        lower: whether less quality is better, as of an error.
    """
    signed = [(cost, quality if lower else -quality) for cost, quality in points]
    return [
        not any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in signed)
        for point in signed
    ]


def _measure(rows: Sequence[dict[str, Any]], name: str, task: str) -> str | None:
    """What stands for the quality of a set; None where no rung has an answer."""
    known = {measure for row in rows for measure in row["sets"].get(name, {}).get("figures", {})}
    return next((measure for measure in PRIMARY[task] if measure in known), None)


def _titles(axes: "Axes", name: str, measure: str, cost: str) -> None:
    known = MEASURES[measure]
    better = "less is better" if known.lower else "more is better"
    label = f"{known.label}, {known.unit}" if known.unit else known.label
    axes.set_ylabel(f"{label}  ({better})")
    axes.set_xlabel(f"{cost}  (less is better)")
    axes.set_title(f"{name}: {known.label}", loc="left", fontsize=11)


def _panel(axes: "Axes", points: Sequence[tuple[dict[str, Any], Point]], lower: bool) -> None:
    places = [point for _, point in points]
    for row, point in points:
        shape, color, size = MARKERS[row["runtime"]]
        axes.plot(*point, shape, color=color, markersize=size, zorder=3)
    best = sorted(point for point, good in zip(places, pareto_best(places, lower), strict=True) if good)
    if len(best) > 1:
        axes.plot(*zip(*best, strict=True), color="#999999", linewidth=1.2, drawstyle="steps-post", zorder=1)
    if not points:
        axes.text(0.5, 0.5, "no rung has both figures", transform=axes.transAxes, ha="center", color="#555555")
    plain_axes(axes, places)
