"""The picture of a comparison: error against memory and against latency, readable without colors."""

from pathlib import Path
from typing import TYPE_CHECKING

from nota_cli.errors import UsageError
from nota_cli.files import atomic_path
from nota_cli.leaderboard.axes import is_drawable, place_labels, plain_axes
from nota_cli.leaderboard.ranking import METRICS, RankedRun, error_metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INSTALL = 'pip install "nota-cli[plot]"'
MARKERS = "osD^v<>phPX*d"
OWN, REPORTED = "#1f4e9c", "#707070"
CROWD = 500
"""With more characters than this in all names the runs are numbered, and the names stand below the panels."""
LONGEST = 44
"""Characters of a name in the picture; of a longer one the middle is left out."""
COSTS = ("memory", "latency")
KEY_COLUMNS, KEY_LINE = 3, 0.19  # of the names below the panels; the height of a line in inches


def draw(ranked_runs: list[RankedRun], path: Path) -> None:
    """Write `picture` as a PNG.

    Raises:
        UsageError: matplotlib is not installed, or the file cannot be written.
    """
    figure = picture(ranked_runs)
    with atomic_path(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})


def check_matplotlib() -> None:
    """Refuse before anything is written if nothing can be drawn.

    Raises:
        UsageError: matplotlib is not installed.
    """
    if not is_drawable():
        raise UsageError(f"the plot needs matplotlib: {INSTALL}; or leave it out with --no-plot")


def picture(ranked_runs: list[RankedRun]) -> "Figure":
    """Every run that has the figures of a panel; a panel says whom it lacks.

    Every run has a marker of its own shape, as far as there are shapes: filled for measured runs, hollow for reported
    ones; Pareto-best names are bold. Where the names would hide each other the runs have numbers, from the best
    ranked on, and the names stand below.

    Raises:
        UsageError: matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [_short(ranked.run.name) for ranked in ranked_runs]
    crowded = sum(map(len, names)) > CROWD
    key_lines = -(-len(names) // KEY_COLUMNS) if crowded else 0
    key_height = KEY_LINE * (key_lines + 0.5) if crowded else 0.0
    height = 5.6 + key_height
    figure = Figure(figsize=(12, height), dpi=150)
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    ordered = sorted(ranked_runs, key=lambda ranked: (ranked.run.reference, ranked.run.name))
    shapes = {id(ranked): MARKERS[index % len(MARKERS)] for index, ranked in enumerate(ordered)}
    error = error_metric([ranked.run for ranked in ranked_runs])
    for axes, cost in zip(panels, COSTS, strict=True):
        _panel(axes, ordered, shapes, error, cost)
    if not any(_point(ranked, error, cost) for ranked in ranked_runs for cost in COSTS):
        panels[0].set_yticks([])
    legend = "filled: measured    hollow: as reported by the teams    bold: Pareto-best in error, memory and latency"
    below = key_height / height
    figure.text(0.5, below + 0.084 / height, legend, ha="center", fontsize=9, color="#333333")
    figure.subplots_adjust(left=0.065, right=0.985, top=1 - 0.672 / height, bottom=below + 0.84 / height, wspace=0.17)
    labels = {id(ranked): name for ranked, name in zip(ranked_runs, names, strict=True)}
    if crowded:
        labels = {id(ranked): str(number) for number, ranked in enumerate(ranked_runs, 1)}
        for index, (ranked, name) in enumerate(zip(ranked_runs, names, strict=True)):
            figure.text(
                0.04 + index // key_lines * 0.96 / KEY_COLUMNS,
                below - (index % key_lines + 1) * KEY_LINE / height,
                f"{index + 1}  {name}",
                fontsize=8,
                fontweight="bold" if ranked.pareto else "normal",
                parse_math=False,
            )
    canvas.draw()  # type: ignore[no-untyped-call]
    for axes, cost in zip(panels, COSTS, strict=True):
        there = [(point, ranked) for ranked in ordered if (point := _point(ranked, error, cost)) is not None]
        texts, bold = [labels[id(ranked)] for _, ranked in there], [bool(ranked.pareto) for _, ranked in there]
        place_labels(figure, axes, [point for point, _ in there], texts, bold)
    return figure


def _point(ranked: RankedRun, error: str, cost: str) -> tuple[float, float] | None:
    x, y = ranked.run.figures[cost], ranked.run.figures[error]
    return None if x is None or y is None else (x, y)


def _panel(axes: "Axes", ordered: list[RankedRun], shapes: dict[int, str], error: str, cost: str) -> None:
    points, lacking = [], []
    for ranked in ordered:
        point = _point(ranked, error, cost)
        if point is None:
            lacking.append(ranked.run.name)
            continue
        points.append(point)
        color = REPORTED if ranked.run.reference else OWN
        axes.plot(
            *point,
            shapes[id(ranked)],
            markersize=9,
            markeredgewidth=1.6,
            markeredgecolor=color,
            markerfacecolor="none" if ranked.run.reference else color,
            zorder=3,
        )
    what, goal = METRICS[error], METRICS[cost]
    better = "less is better" if what.lower else "more is better"
    axes.set_xlabel(f"{goal.label}, {goal.unit}  (less is better)")
    axes.tick_params(labelleft=True)
    axes.set_ylabel(f"{what.label}{', ' + what.unit if what.unit else ''}  ({better})")
    axes.set_title(f"{what.label} against {goal.label}", loc="left", fontsize=11, pad=18)
    if lacking:
        names = ", ".join(lacking)
        text = f"not shown, a figure is missing: {names if len(names) < 50 else f'{len(lacking)} runs'}"
        axes.text(0, 1.012, text, transform=axes.transAxes, va="bottom", fontsize=8, color="#555555", parse_math=False)
    if not points:
        axes.text(0.5, 0.5, "no run has both figures", transform=axes.transAxes, ha="center", color="#555555")
        axes.set_xticks([])
    plain_axes(axes, points)


def _short(name: str) -> str:
    half = (LONGEST - 1) // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"
