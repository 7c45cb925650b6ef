"""A ladder as a table: Markdown, CSV and plain values."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from nota_cli.ladder.climb import Plan, Result
from nota_cli.ladder.figures import MEASURES, SAMPLES, Answers, change, differing, own_interval
from nota_cli.ladder.rungs import REFERENCE
from nota_cli.leaderboard.markdown import markdown_row, markdown_text

MIB = 2**20
ABSENT = "-"


def record(result: Result, reference: Result | None) -> dict[str, Any]:
    """A rung as plain values, for JSON.

    Args:
        result: of the rung.
        reference: what it is held against; None where that failed.
    """
    return {
        "rung": result.rung.name,
        "runtime": result.rung.runtime,
        "encoder_bits": result.rung.encoder_bits,
        "decoder_bits": result.rung.decoder_bits,
        "decoder_format": result.rung.decoder_format,
        "failure": result.failure,
        "sets": {
            name: _set_record(answers, reference.answers.get(name) if reference is not None else None)
            for name, answers in result.answers.items()
        },
        "looped_share": _looped_share(result),
        "bytes": result.bytes,
        "peak_rss_bytes": result.peak_bytes,
        "ttft_s": result.seconds("ttft_from_waveform"),
        "tpot_s": result.seconds("tpot"),
        "real_time_factor": result.real_time_factor,
    }


def records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Every rung as plain values, each beside the reference."""
    reference = next((each for each in results if each.rung == REFERENCE and each.answers), None)
    return [record(each, reference) for each in results]


def cells(rows: Sequence[dict[str, Any]], plan: Plan, content: str = "both") -> tuple[list[str], list[list[str]]]:
    """Headings, and for each record the texts below them.

    Args:
        rows: of `records`.
        plan: what they are of.
        content: `quality`, `cost`, or both side by side.
    """
    columns = list(_measures(rows, plan))
    heads, body = ["rung"], [[row["rung"] + (" (failed)" if row["failure"] else "")] for row in rows]
    if content != "cost":
        heads += _quality_heads(columns)
        body = [[*line, *_quality(row, columns)] for line, row in zip(body, rows, strict=True)]
    if content != "quality":
        heads += ["on disk, MiB", "peak RSS, MiB", "TTFT, ms", "TPOT, ms", "real-time factor"]
        body = [[*line, *_cost(row)] for line, row in zip(body, rows, strict=True)]
    return heads, body


def _quality_heads(columns: Sequence[tuple[str, str]]) -> list[str]:
    heads = []
    for name, measure in columns:
        known = MEASURES[measure]
        label = known.label if name in ("asr", "aac", "qa") else f"{known.label} ({name})"
        heads += [f"{label}, {known.unit}" if known.unit else label, "change [95%]"]
    return [*heads, "other texts", "loops"]


def markdown(rows: Sequence[dict[str, Any]], plan: Plan, command: str, machines: Sequence[str]) -> str:
    """The table with the command that made it and what its columns mean."""
    heads, body = cells(rows, plan)
    if any(row["failure"] for row in rows):
        heads, body = [*heads, "failed"], [[*line, row["failure"] or ""] for line, row in zip(body, rows, strict=True)]
    lines = [
        f"# {markdown_text(plan.recipe.name)}: quality and cost of its artifacts",
        "",
        "```bash",
        command,
        "```",
        "",
    ]
    lines += [markdown_row(heads), markdown_row(["---", *["---:"] * (len(heads) - 1)])]
    lines += [markdown_row(line) for line in body]
    lines += ["", *(f"- {markdown_text(line)}" for line in explain(plan, machines))]
    return "\n".join(lines) + "\n"


def explain(plan: Plan, machines: Sequence[str]) -> list[str]:
    """What a reader of the table needs to know, one sentence a line."""
    sets = ", ".join(f"{each.name} {len(each.rows)} clips of {each.source}" for each in plan.sets)
    return [
        "rungs: runtime, bits of the encoders (e), bits (d) or llama.cpp's format of the decoder; torch: the source as "
        "it stands",
        f"sets: {sets}",
        f"change: to torch over the same clips, with the 95% interval of a paired bootstrap ({SAMPLES:,} samples)",
        "other texts: that differ from torch's; loops: share of texts that repeat themselves, cut or not",
        f"TTFT from waveform, TPOT and peak RSS: a process of its own, batch 1, {plan.audio_seconds:g} s of noise",
        "real-time factor: seconds of computing for each second of the sets' audio, in batches as the recipe has them",
        *([f"measured on {'; '.join(machines)}"] if machines else []),
    ]


def machines_of(results: Sequence[Result]) -> list[str]:
    """What the measurements say they were made on, each once; times of different ones do not compare."""
    reports = [each.efficiency for each in results if each.efficiency is not None]
    return list(dict.fromkeys(f"{each['machine']['cpu']} ({each['device']})" for each in reports))


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """One rung a row, a column for each figure; what is missing is an empty cell."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row if name != "failure"))
    written = io.StringIO()
    writer = csv.DictWriter(written, [*names, "failure"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return written.getvalue()


def _set_record(answers: Answers, reference: Answers | None) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, counts in answers.counts.items():
        entry: dict[str, Any] = {"value": counts.value, "interval": _list(own_interval(counts))}
        if reference is not None:
            difference = change(counts, reference.counts[name])
            entry |= {"change": difference.value, "change_interval": _list(difference.interval)}
        figures[name] = entry
    return {
        "clips": len(answers.texts),
        "figures": figures,
        "looped": sum(answers.looped),
        "empty": answers.empty,
        "other_texts": None if reference is None else differing(answers, reference),
    }


def _looped_share(result: Result) -> float | None:
    flags = [flag for answers in result.answers.values() for flag in answers.looped]
    return sum(flags) / len(flags) if flags else None


def _measures(rows: Sequence[dict[str, Any]], plan: Plan) -> Iterator[tuple[str, str]]:
    """Set and measure of each pair of columns."""
    for each in plan.sets:
        known = {name for row in rows for name in row["sets"].get(each.name, {}).get("figures", {})}
        yield from ((each.name, measure) for measure in MEASURES if measure in known)


def _quality(row: dict[str, Any], columns: Sequence[tuple[str, str]]) -> list[str]:
    texts = []
    for name, measure in columns:
        figure = row["sets"].get(name, {}).get("figures", {}).get(measure)
        texts.append(ABSENT if figure is None else f"{figure['value']:.1f}")
        texts.append(ABSENT if figure is None or row["rung"] == REFERENCE.name else _change(figure))
    sets = row["sets"].values()
    others = [each["other_texts"] for each in sets if each["other_texts"] is not None]
    clips = sum(each["clips"] for each in sets)
    texts.append(f"{sum(others)} of {clips}" if others and row["rung"] != REFERENCE.name else ABSENT)
    texts.append(ABSENT if row["looped_share"] is None else f"{100 * row['looped_share']:.1f}%")
    return texts


def _cost(row: dict[str, Any]) -> list[str]:
    texts = [_number(row["bytes"], 1 / MIB, 1), _number(row["peak_rss_bytes"], 1 / MIB, 0)]
    texts += [_number(row["ttft_s"], 1000, 1), _number(row["tpot_s"], 1000, 2), _number(row["real_time_factor"], 1, 3)]
    return texts


def _change(figure: dict[str, Any]) -> str:
    if "change" not in figure:
        return ABSENT
    bounds = figure["change_interval"]
    return f"{figure['change']:+.1f}" + ("" if bounds is None else f" [{bounds[0]:+.1f}, {bounds[1]:+.1f}]")


def _number(value: float | None, factor: float, decimals: int) -> str:
    return ABSENT if value is None else f"{value * factor:,.{decimals}f}"


def _list(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else list(bounds)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in row.items() if name != "sets"}
    for name, entry in row["sets"].items():
        for measure, figure in entry["figures"].items():
            low, high = figure["interval"] or (None, None)
            flat |= {f"{name}.{measure}": figure["value"], f"{name}.{measure}.low": low, f"{name}.{measure}.high": high}
            if "change" in figure:
                low, high = figure["change_interval"] or (None, None)
                flat |= {f"{name}.{measure}.change": figure["change"], f"{name}.{measure}.change_low": low}
                flat[f"{name}.{measure}.change_high"] = high
        flat |= {f"{name}.{key}": entry[key] for key in ("clips", "looped", "empty", "other_texts")}
    return flat
