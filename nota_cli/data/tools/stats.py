"""What is in an annotation: counts, lengths, words and loudness, as tables, pictures and one page."""

import base64
import html
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nota_cli.cores import usable_cores
from nota_cli.data.annotation import Row, clip_paths
from nota_cli.data.audio.clip import load_clip
from nota_cli.data.audio.headers import scan
from nota_cli.errors import AudioError, UsageError
from nota_cli.files import write_text

INSTALL = 'pip install "nota-cli[plot]"'
COMMONEST = 20  # words that are listed
BINS = 40


@dataclass(frozen=True)
class Statistics:
    """Of all rows, and of each task and source.

    Attributes:
        groups: for each (task, source) its rows, hours, words and words a second.
        seconds: each clip's length, where its header says it.
        words: each row's number of words.
        loudness: each clip's level in dB below full scale, where it was decoded.
        vocabulary: how often each word stands in the texts, in lower case.
        unreadable: rows whose file cannot be read.
    """

    groups: dict[tuple[str, str], dict[str, float]]
    seconds: tuple[float, ...]
    words: tuple[int, ...]
    loudness: tuple[float, ...]
    vocabulary: Counter[str]
    unreadable: int


def statistics(
    rows: Sequence[Row],
    audio_root: Path,
    *,
    loudness: bool = True,
    workers: int | None = None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Statistics:
    """Count what is there.

    Args:
        rows: of the annotation.
        audio_root: what their paths are relative to.
        loudness: decode every clip for its level; else headers alone are read.
        workers: threads that decode.
        on_progress: told how many more rows are done.
    """
    scanned = scan(rows, audio_root, on_progress=on_progress)
    groups: dict[tuple[str, str], dict[str, float]] = {}
    vocabulary: Counter[str] = Counter()
    words = []
    for row, seconds in zip(rows, scanned.durations, strict=True):
        spoken = (row.text or "").lower().split()
        words.append(len(spoken))
        vocabulary.update(spoken)
        parts = Path(row.path).parts
        group = groups.setdefault(
            (row.task, parts[0] if len(parts) > 1 else "."), {"rows": 0, "hours": 0.0, "words": 0, "words/s": 0.0}
        )
        group["rows"] += 1
        group["words"] += len(spoken)
        group["hours"] += (seconds or 0.0) / 3600
    for group in groups.values():
        group["words/s"] = group["words"] / (group["hours"] * 3600) if group["hours"] else 0.0
    bad = {each.row for each in scanned}
    levels: list[float] = []
    if loudness:
        good = [row for row in rows if row.index not in bad]
        with ThreadPoolExecutor(workers or usable_cores()) as pool:
            for level in pool.map(lambda row: _level(row, audio_root), good):
                on_progress(1)
                if level is not None:
                    levels.append(level)
    known = tuple(seconds for seconds in scanned.durations if seconds is not None)
    return Statistics(dict(sorted(groups.items())), known, tuple(words), tuple(levels), vocabulary, len(bad))


def _level(row: Row, audio_root: Path) -> float | None:
    """Root mean square of what a model hears, in dB below full scale; None for silence and what cannot be read."""
    try:
        samples = load_clip(clip_paths(row, audio_root), row=row.number, min_seconds=0.0, notes=[])
    except AudioError:
        return None
    power = float(np.square(samples, dtype=np.float64).mean()) if len(samples) else 0.0
    return 10 * float(np.log10(power)) if power > 0 else None


def write_statistics(summary: Statistics, title: str, out: Path) -> list[Path]:
    """Markdown, pictures and one self-contained page in a folder.

    Raises:
        UsageError: matplotlib is not installed.
    """
    pictures = _pictures(summary)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, data in pictures.items():
        (out / f"{name}.png").write_bytes(data)
        written.append(out / f"{name}.png")
    markdown = _markdown(summary, title, list(pictures))
    write_text(out / "stats.md", markdown)
    write_text(out / "stats.html", _page(summary, title, pictures))
    return [out / "stats.md", out / "stats.html", *written]


def group_rows(summary: Statistics) -> list[list[str]]:
    """The table of tasks and sources, all of them last."""

    def cells(group: dict[str, float]) -> list[str]:
        forms = {"rows": ",.0f", "hours": ".2f", "words": ",.0f", "words/s": ".2f"}
        return [format(group[key], form) for key, form in forms.items()]

    total = {key: sum(group[key] for group in summary.groups.values()) for key in ("rows", "hours", "words")}
    total["words/s"] = total["words"] / (total["hours"] * 3600) if total["hours"] else 0.0
    return [*([*name, *cells(group)] for name, group in summary.groups.items()), ["all", "", *cells(total)]]


QUANTILES = ["", "least", "median", "most"]
COLUMNS = ["task", "source", "rows", "hours", "words", "words/s"]


def summary_rows(summary: Statistics) -> list[list[str]]:
    """Least, median and most of lengths, words and loudness, and the vocabulary."""
    rows = []
    for name, values, form in (
        ("seconds a clip", summary.seconds, "{:.2f}"),
        ("words a row", summary.words, "{:.0f}"),
        ("loudness, dB", summary.loudness, "{:.1f}"),
    ):
        if values:
            low, middle, high = np.quantile(values, [0, 0.5, 1]).tolist()
            rows.append([name, *(form.format(value) for value in (low, middle, high))])
    rows.append(["different words", "", f"{len(summary.vocabulary):,}", ""])
    if summary.unreadable:
        rows.append(["rows that cannot be read", "", f"{summary.unreadable:,}", ""])
    return rows


def _markdown(summary: Statistics, title: str, pictures: Sequence[str]) -> str:
    def lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
        return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *(f"| {' | '.join(row)} |" for row in rows)]

    words = ", ".join(f"{word} ({count:,})" for word, count in summary.vocabulary.most_common(COMMONEST))
    parts = [
        f"# {title}",
        "",
        *lines(COLUMNS, group_rows(summary)),
        "",
        *lines(QUANTILES, summary_rows(summary)),
    ]
    parts += ["", f"Commonest words: {words}", "", *(f"![{name}]({name}.png)\n" for name in pictures)]
    return "\n".join(parts).rstrip() + "\n"


def _page(summary: Statistics, title: str, pictures: dict[str, bytes]) -> str:
    def rows(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
        return f"<table><tr>{head}</tr>{body}</table>"

    words = ", ".join(f"{html.escape(word)} ({count:,})" for word, count in summary.vocabulary.most_common(COMMONEST))
    images = "".join(
        f'<figure><img alt="{name}" src="data:image/png;base64,{base64.b64encode(data).decode()}"></figure>'
        for name, data in pictures.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;margin:1rem 0}"
        "td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}"
        "td:nth-child(n+3){text-align:right}img{max-width:100%}figure{margin:1rem 0}</style>"
        f"<h1>{html.escape(title)}</h1>{rows(COLUMNS, group_rows(summary))}"
        f"{rows(QUANTILES, summary_rows(summary))}<p>Commonest words: {words}</p>{images}</html>\n"
    )


def _pictures(summary: Statistics) -> dict[str, bytes]:
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError(f"pictures need matplotlib. Run: {INSTALL}") from error
    matplotlib.use("Agg")
    import io

    import matplotlib.pyplot as plt

    histograms: dict[str, tuple[Sequence[float], str]] = {
        "durations": (summary.seconds, "seconds a clip"),
        "words": (summary.words, "words a row"),
        "loudness": (summary.loudness, "level of a clip, dB below full scale"),
    }
    pictures = {}
    for name, (values, label) in histograms.items():
        if not values:
            continue
        figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
        axes.hist(values, bins=_bins(values), color="#4c78a8")
        axes.set_xlabel(label)
        axes.set_ylabel("clips")
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
        plt.close(figure)
        pictures[name] = buffer.getvalue()
    return pictures


def _bins(values: Sequence[float]) -> Any:
    """One bar a number where there are few whole numbers, else so many bars."""
    whole = all(isinstance(value, int) for value in values)
    if whole and max(values) - min(values) < BINS:
        return np.arange(min(values), max(values) + 2) - 0.5
    return BINS
