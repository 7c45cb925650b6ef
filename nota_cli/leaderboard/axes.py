"""What pictures of measurements share: plain axes, and names beside their markers that do not hide each other."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

LOG_FROM = 10.0
"""An axis whose largest value is so many times its smallest is logarithmic."""

# Where a label is tried, in sixteenths of a turn: right, left, above, below, the corners, between; ever further off.
_TURNS = (0, 8, 4, 12, 2, 6, 14, 10, 1, 3, 5, 7, 9, 11, 13, 15)
_DISTANCES = (9, 16, 26, 38, 54, 72, 92, 115, 140, 170, 200)

Point = tuple[float, float]


def is_drawable() -> bool:
    """Whether matplotlib is installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def plain_axes(axes: "Axes", points: Sequence[Point]) -> None:
    """Room round the points, a light grid, logarithmic scales where values differ much, numbers as people write them.

    Args:
        axes: of one panel, its points drawn.
        points: what is drawn there.
    """
    axes.margins(0.14, 0.14)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    for values, scale in ((xs, axes.set_xscale), (ys, axes.set_yscale)):
        if values and min(values) > 0 and max(values) / min(values) >= LOG_FROM:
            scale("log")
    _plain_ticks(axes)
    axes.grid(True, color="#e3e3e3", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def place_labels(
    figure: "Figure", axes: "Axes", points: Sequence[Point], texts: Sequence[str], bold: Sequence[bool]
) -> None:
    """Names beside their markers, where they cover neither a marker nor another name; a line leads to far ones.

    Args:
        figure: with a canvas that has drawn it once, so that positions are known.
        axes: a panel of it.
        points: the markers.
        texts: their names, in the same order.
        bold: which names are bold.
    """
    from matplotlib.transforms import Bbox

    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    centers = [tuple(axes.transData.transform(point)) for point in points]
    pixels = figure.dpi / 72
    radius = 8 * pixels
    taken = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in centers]
    frame = axes.get_window_extent(renderer)
    for point, name, heavy, center in zip(points, texts, bold, centers, strict=True):
        text = axes.annotate(
            name,
            point,
            parse_math=False,
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold" if heavy else "normal",
            color="#111111",
            zorder=4,
        )
        size = text.get_window_extent(renderer)
        box, offset, far = _free_box(center, size, taken, frame, pixels)
        taken.append(box)
        text.set_position(offset)
        if far:
            axes.annotate(
                "",
                point,
                xytext=offset,
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.7, "shrinkA": 8, "shrinkB": 6},
                zorder=2,
            )


def _plain_ticks(axes: "Axes") -> None:
    """Numbers as people write them on logarithmic axes too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def _free_box(
    center: tuple[float, ...], size: "Bbox", taken: list["Bbox"], frame: "Bbox", pixels: float
) -> tuple["Bbox", tuple[float, float], bool]:
    """The first place that is free and inside the frame, else the one that covers least: box, offset in points, far."""
    from matplotlib.transforms import Bbox

    best: tuple[float, Bbox, tuple[float, float], bool] | None = None
    x, y = center[0], center[1]
    for distance in _DISTANCES:
        for turn in _TURNS:
            side, up = math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)
            dx = side * (distance * pixels + size.width / 2)
            dy = up * (distance * pixels + size.height / 2)
            box = Bbox.from_bounds(x + dx - size.width / 2, y + dy - size.height / 2, size.width, size.height)
            covered = sum(_overlap(box, other) for other in taken) + size.width * size.height - _overlap(box, frame)
            if best is None or covered < best[0]:
                best = (covered, box, (dx / pixels, dy / pixels), distance > _DISTANCES[1])
            if covered <= 0.5:
                return best[1:]
    assert best is not None
    return best[1:]


def _overlap(one: "Bbox", other: "Bbox") -> float:
    """Square pixels that both boxes cover."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(max(0.0, width) * max(0.0, height))
