"""Runs ranked as the competition did: a weighted sum of the ranks of error, captions, memory, latency and answers."""

import csv
import io
import json
import math
from dataclasses import dataclass
from typing import Any

from nota_cli.assets import home
from nota_cli.errors import UsageError
from nota_cli.leaderboard.markdown import markdown_row, markdown_text
from nota_cli.leaderboard.reports import Run


@dataclass(frozen=True)
class Metric:
    """One of the figures that are ranked: how it is called, its unit, decimals, and whether less is better."""

    label: str
    short: str
    unit: str
    decimals: int
    lower: bool = True


METRICS = {
    "wer": Metric("WER", "WER", "%", 2),
    "spider": Metric("CIDEr-D x 100", "captions", "", 2, lower=False),
    "memory": Metric("memory", "memory", "GiB", 2),
    "latency": Metric("latency", "latency", "s", 3),
    "qa": Metric("QA", "QA", "%", 2, lower=False),
}
WEIGHTS = {"wer": 1.0, "spider": 1.0, "memory": 2.0, "latency": 2.0, "qa": 1.0}
"""The competition's. The organisers print CIDEr-D x 100 under the name SPIDEr, hence the key."""

MISSING = ("worst", "skip")


@dataclass(frozen=True)
class RankedRun:
    """Where a run stands.

    Attributes:
        run: the run.
        ranks: of each figure, from 1; None where it is not ranked.
        total: the weighted sum of the ranks, less is better; None for a run that is left out of the ranking.
        overall_rank: the rank of that sum.
        pareto: no other run is as good in error, memory and latency and better in one; None where a figure lacks.
    """

    run: Run
    ranks: dict[str, int | None]
    total: float | None
    overall_rank: int | None
    pareto: bool | None


def parse_weights(text: str | None) -> dict[str, float]:
    """The competition's weights with those of `wer=1,spider=1,memory=2,latency=2,qa=1` in their place.

    Raises:
        UsageError: an unknown figure, a weight that is no number or below zero, or nothing that counts.
    """
    weights = dict(WEIGHTS)
    for part in filter(None, (piece.strip() for piece in (text or "").split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in METRICS:
            raise UsageError(f"--weights {part!r}: there are {', '.join(METRICS)}; write for example memory=2")
        try:
            weights[name] = float(value)
        except ValueError:
            raise UsageError(f"--weights {part!r}: {value!r} is no number; write for example {name}=2") from None
        if not (math.isfinite(weights[name]) and weights[name] >= 0):
            raise UsageError(f"--weights {part!r}: a weight is zero or more")
    if not any(weights.values()):
        raise UsageError("--weights: every weight is zero, so nothing would be ranked; give one a weight above it")
    return weights


def reference_runs() -> list[Run]:
    """What the teams whose systems ship as recipes reported."""
    path = home() / "configs" / "leaderboard" / "seeds.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    runs = []
    for row in data["runs"]:
        figures = {name: row.get(name) for name in (*METRICS, "ttft", "tpot")}
        if figures["latency"] is None and figures["ttft"] is not None and figures["tpot"] is not None:
            figures["latency"] = round(figures["ttft"] + figures["tpot"], 9)
        about = {key: data[key] for key in ("device", "protocol", "profile")}
        runs.append(Run(row["name"], figures, reference=True, note=row.get("note", ""), **about))
    return runs


def rank(values: list[float | None], lower: bool = True, missing: str = "worst") -> list[int | None]:
    """Competition ranking: equal figures share the best rank among them (1, 2, 2, 4).

    A missing figure comes after all that are there (`worst`), several of them share that rank; or it has none (`skip`).
    """
    there = [value if lower else -value for value in values if value is not None]
    last = len(there) + 1 if missing == "worst" else None
    return [
        last if value is None else 1 + sum(other < (value if lower else -value) for other in there) for value in values
    ]


def rank_runs(runs: list[Run], weights: dict[str, float] | None = None, missing: str = "worst") -> list[RankedRun]:
    """Every run's overall rank, best first; runs of equal sums share a rank and keep their order.

    A figure that no run has counts for none. With `worst` a run without a figure is ranked last in it; with `skip` it
    is left out of the whole ranking, and the others are ranked without it.

    Raises:
        UsageError: there is no such way with missing figures, or no figure that counts.
    """
    if missing not in MISSING:
        raise UsageError(f"--missing {missing!r}: there are {' and '.join(MISSING)}")
    weights = WEIGHTS if weights is None else weights
    known = [name for name in METRICS if any(run.figures[name] is not None for run in runs)]
    counted = [name for name in known if weights[name] > 0]
    if not counted:
        raise UsageError("no run has a figure whose weight is above zero; change --weights or give more reports")
    # By their index in the list: two runs may be equal in everything.
    ranked = [
        index
        for index, run in enumerate(runs)
        if missing == "worst" or all(run.figures[name] is not None for name in counted)
    ]
    ranks: list[dict[str, int | None]] = [dict.fromkeys(METRICS) for _ in runs]
    for name in known:
        values = [runs[index].figures[name] for index in ranked]
        for index, position in zip(ranked, rank(values, METRICS[name].lower, missing), strict=True):
            ranks[index][name] = position
    # Weights such as 0.1 do not add up exactly; equal sums must be equal.
    totals = {index: round(sum(weights[name] * (ranks[index][name] or 0) for name in counted), 9) for index in ranked}
    positions = dict(zip(totals, rank(list(totals.values())), strict=True))
    best = pareto(runs)
    ranked_runs = [
        RankedRun(run, ranks[index], totals.get(index), positions.get(index), best[index])
        for index, run in enumerate(runs)
    ]
    return sorted(ranked_runs, key=lambda ranked: (ranked.overall_rank is None, ranked.overall_rank or 0))


def error_metric(runs: list[Run]) -> str:
    """What stands for error: WER if any run has it, else the caption score."""
    return "wer" if any(run.figures["wer"] is not None for run in runs) else "spider"


def pareto(runs: list[Run]) -> list[bool | None]:
    """Which runs no other one beats: as good in error, memory and latency, and better in at least one.

    A run that lacks one of the three is neither marked nor beats another.
    """
    error = error_metric(runs)
    points: list[tuple[float, ...] | None] = []
    for run in runs:
        there = [value for name in (error, "memory", "latency") if (value := run.figures[name]) is not None]
        if there and not METRICS[error].lower:
            there[0] = -there[0]
        points.append(tuple(there) if len(there) == 3 else None)
    full = [point for point in points if point is not None]
    return [None if point is None else not any(_beats(other, point) for other in full) for point in points]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))


def cautions(runs: list[Run]) -> list[str]:
    """Why figures in one table may not be comparable, one sentence each."""
    reasons = []
    for key, what in (
        ("device", "memory and latency were measured on different devices"),
        ("protocol", "memory and latency were measured by different protocols"),
        ("profile", "scores come from different profiles"),
        ("answers", "answers were judged in different ways"),
    ):
        values = list(dict.fromkeys(getattr(run, key) for run in runs if getattr(run, key)))
        if len(values) > 1:
            reasons.append(f"{what}: {'; '.join(values)}")
    for figure, metric in METRICS.items():
        counts = {run.name: run.rows[figure] for run in runs if figure in run.rows}
        if len(set(counts.values())) > 1:
            each = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            reasons.append(f"{metric.label} was scored on different numbers of clips: {each}")
    if any(run.load_format == "dummy" for run in runs):
        names = ", ".join(run.name for run in runs if run.load_format == "dummy")
        reasons.append(f"measured with dummy weights: {names}")
    reasons += [f"{run.name}: {run.note}" for run in runs if run.note and not run.reference]
    return reasons


def explain(table: list[RankedRun], weights: dict[str, float], missing: str) -> list[str]:
    """How the table is to be read, one sentence a line."""
    runs = [ranked.run for ranked in table]
    known = [name for name in METRICS if any(run.figures[name] is not None for run in runs)]
    none = [name for name in METRICS if name not in known and weights[name] > 0]
    lines = ["sum: the ranks times " + ", ".join(f"{name} {weights[name]:g}" for name in known)]
    if none:
        lines.append(f"no run has {' or '.join(METRICS[name].label for name in none)}, so that counts for none")
    if any(run.figures[name] is None for run in runs for name in known):
        note = "ranked after all that have it" if missing == "worst" else "a run without one is not ranked"
        lines.append(f"-: missing; {note}")
    error = METRICS[error_metric(runs)].label
    lines.append(f"*: Pareto-best: none is as good in {error}, memory and latency, and better in one of them")
    if any(run.reference for run in runs):
        lines.append("†: as reported by the teams, not measured again")
    if judged := sorted({run.answers for run in runs} - {""}):
        lines.append(f"QA: percent of answers by {' or '.join(judged)}")
    lines.append("latency: TTFT + TPOT; memory in GiB of 2^30 bytes; captions: CIDEr-D x 100, no SPIDEr")
    return lines


def cells(table: list[RankedRun], *, labels: bool = False, content: str = "both") -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table as text; figures that no run has are left out.

    `labels` gives headings in full; `content` is what stands under them: `figures`, `ranks`, or both.
    """
    known = [name for name in METRICS if any(ranked.run.figures[name] is not None for ranked in table)]
    heads = []
    for name in known:
        metric = METRICS[name]
        text = metric.label if labels else metric.short
        heads.append(f"{text}, {metric.unit}" if metric.unit and content != "ranks" else text)
    rows = []
    for ranked in table:
        row = [ranked.run.name + (" †" if ranked.run.reference else "")]
        if content != "figures":
            row.append(
                ("-" if ranked.overall_rank is None else str(ranked.overall_rank)) + (" *" if ranked.pareto else "")
            )
            row.append("-" if ranked.total is None else f"{ranked.total:g}")
        for name in known:
            value, position = ranked.run.figures[name], ranked.ranks[name]
            text = "-" if value is None else f"{value:,.{METRICS[name].decimals}f}"
            if content == "ranks":
                text = "-" if position is None else str(position)
            elif content == "both" and position is not None:
                text += f" ({position})"
            row.append(text)
        rows.append(row)
    return ["run", *([] if content == "figures" else ["rank", "sum"]), *heads], rows


def markdown(table: list[RankedRun], weights: dict[str, float], missing: str) -> str:
    """The table with its explanation and the runs' sources."""
    heads, rows = cells(table, labels=True)
    extra = ["TTFT, s", "TPOT, s", "measured on"]
    rows = [
        [*row, _number(ranked.run.figures["ttft"]), _number(ranked.run.figures["tpot"]), ranked.run.device or "-"]
        for row, ranked in zip(rows, table, strict=True)
    ]
    heads = [*heads, *extra]
    lines = ["# Weighted ranks", "", markdown_row(heads), markdown_row(["---", *["---:"] * (len(heads) - 2), "---"])]
    lines += [markdown_row(row) for row in rows]
    runs = [ranked.run for ranked in table]
    lines += ["", *(f"- {markdown_text(line)}" for line in explain(table, weights, missing))]
    lines += [f"- Caution: {markdown_text(line)}" for line in cautions(runs)]
    lines += [f"- {markdown_text(run.name)}: {markdown_text(run.note)}" for run in runs if run.note and run.reference]
    lines += [
        f"- {markdown_text(run.name)}: {markdown_text(', '.join(map(str, run.files)))}" for run in runs if run.files
    ]
    return "\n".join(lines) + "\n"


def csv_text(table: list[RankedRun]) -> str:
    """Every figure and rank as CSV, one run a row; what is missing is an empty cell."""
    written = io.StringIO()
    rows = [record(ranked) for ranked in table]
    writer = csv.DictWriter(written, list(rows[0]) if rows else ["run"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "files": ";".join(row["files"])})
    return written.getvalue()


def record(ranked: RankedRun) -> dict[str, Any]:
    """A ranked run as plain values, for JSON and CSV."""
    run = ranked.run
    ranks = {f"{name}_rank": ranked.ranks[name] for name in METRICS}
    names = {
        "wer": "wer",
        "spider": "cider_d_x100",
        "memory": "memory_gib",
        "latency": "latency_s",
        "qa": "qa",
    }
    figures = {names[name]: run.figures[name] for name in METRICS}
    return {
        "run": run.name,
        "rank": ranked.overall_rank,
        "weighted_sum": ranked.total,
        "pareto": ranked.pareto,
        "reference": run.reference,
        **figures,
        "ttft_s": run.figures["ttft"],
        "tpot_s": run.figures["tpot"],
        **ranks,
        "device": run.device,
        "protocol": run.protocol,
        "profile": run.profile,
        "answers": run.answers,
        "load_format": run.load_format,
        "note": run.note,
        "files": [str(path) for path in run.files],
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
