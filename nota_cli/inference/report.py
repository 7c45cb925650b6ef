"""The report beside a CSV: what was done, how long it took, which rows are out of the ordinary, what it is made of."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nota_cli.data.annotation import Row, row_id
from nota_cli.data.audio.clip import NOTE_KINDS
from nota_cli.inference.journal import BLANK, DONE, SKIPPED, Entry
from nota_cli.inference.results import Outcomes, Tally
from nota_cli.models.device import gpu_name
from nota_cli.version import source_hash, versions

PACKAGES = ("torch", "transformers", "peft", "gptqmodel", "soundfile", "soxr", "numpy")


@dataclass
class Stages:
    """Seconds of the stages that rank 0 goes through outside the batches."""

    scan: float = 0.0
    load: float = 0.0
    gather: float = 0.0
    write: float = 0.0


@dataclass
class Facts:
    """What a report tells besides rows and times; values that go into it as they are."""

    device: str
    processes: int
    resumed: int
    long: str
    most_seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)


def report_path(out: Path) -> Path:
    """Beside the CSV: `submission.csv` has `submission.run.json`, any other name has it behind it."""
    return out.with_name((out.stem if out.suffix == ".csv" else out.name) + ".run.json")


def run_report(
    rows: Sequence[Row],
    outcomes: Outcomes,
    tallies: Sequence[Tally],
    stages: Stages,
    seconds: float,
    facts: Facts,
) -> dict[str, Any]:
    """The report as JSON values.

    Args:
        rows: annotation rows.
        outcomes: what became of each, in the same order.
        tallies: of every process, rank 0 first.
        stages: rank 0's.
        seconds: from the start to now.
        facts: what else belongs in it.
    """

    def ids(which: Callable[[Entry], bool]) -> list[str]:
        both = zip(rows, outcomes, strict=True)
        return [row_id(row) for row, entry in both if entry.status == DONE and which(entry)]

    audio_seconds = sum(tally.audio_seconds for tally in tallies)
    busy = max(tally.wait + tally.generate + tally.write for tally in tallies)
    computed = sum(tally.rows for tally in tallies)
    most = facts.most_seconds if facts.long == "cut" else float("inf")
    first = tallies[0]
    return {
        "rows": len(rows),
        "answered": sum(entry.status == DONE for entry in outcomes),
        "blank": _unusable(rows, outcomes, BLANK),
        "skipped": _unusable(rows, outcomes, SKIPPED),
        "looped": ids(lambda entry: entry.looped),
        "empty": ids(lambda entry: not entry.text.strip()),
        "cut": ids(lambda entry: entry.seconds > most),
        **{kind: _noted(rows, outcomes, kind) for kind in NOTE_KINDS},
        "resumed_rows": facts.resumed,
        "computed_rows": computed,
        "audio_seconds": round(sum(entry.seconds for entry in outcomes if entry.status == DONE), 3),
        "heard_seconds": round(audio_seconds, 3),
        "seconds": round(seconds, 3),
        "clips_per_second": round(computed / busy, 3) if busy else None,
        "real_time_factor": round(busy / audio_seconds, 5) if audio_seconds else None,
        "stages": {
            "scan": round(stages.scan, 3),
            "load": round(stages.load, 3),
            "wait_for_features": round(first.wait, 3),
            "encode_and_generate": round(first.generate, 3),
            "wait_for_ranks": round(stages.gather, 3),
            "write": round(stages.write + first.write, 3),
        },
        "batch_size": max(tally.batch_size for tally in tallies),
        "halvings": sum(tally.halvings for tally in tallies),
        "processes": facts.processes,
        "device": facts.device,
        "compute": first.compute,
        "device_name": gpu_name(facts.device) or platform.processor() or platform.machine(),
        "long": facts.long,
        **facts.provenance,
        "versions": versions(PACKAGES),
        "code": source_hash(),
    }


def summary(out: Path, report: dict[str, Any]) -> dict[str, object]:
    """What of a report the table after a run shows."""
    unusual: dict[str, object] = {"kept from before": report["resumed_rows"]}
    unusual |= {name: len(report[name]) for name in ("blank", "skipped", "looped", "cut", *NOTE_KINDS)}
    rate = report["clips_per_second"]
    return {
        "rows": report["rows"],
        **{name: count for name, count in unusual.items() if count},
        "seconds": f"{report['seconds']:.1f}",
        "clips/s": "-" if rate is None else f"{rate:.1f}",
        "csv": str(out),
        "report": str(report_path(out)),
    }


def _unusable(rows: Sequence[Row], outcomes: Outcomes, status: str) -> list[dict[str, Any]]:
    return [
        {"row": row.index, "id": row_id(row), "reason": entry.reason}
        for row, entry in zip(rows, outcomes, strict=True)
        if entry.status == status
    ]


def _noted(rows: Sequence[Row], outcomes: Outcomes, kind: str) -> list[dict[str, Any]]:
    return [
        {"row": row.index, "id": row_id(row), "reason": entry.notes[kind]}
        for row, entry in zip(rows, outcomes, strict=True)
        if entry.status == DONE and kind in entry.notes
    ]
