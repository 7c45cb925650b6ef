"""What an export costs beside its source, from the shell to the CSV: seconds, peak memory, and the texts that differ.

    python benchmarks/exports.py --source tiny exports/tiny exports/tiny-int4 --data data

Wants what `nota prepare` writes (data/fsdd-dev.json, data/esc10-dev.json): 380 recordings that no model trained on.
Each run is a process of its own, imports included; the fastest of --rounds counts. Ends with one JSON line.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nota_cli.data.corpora.esc10 import caption_accuracy_of_csv
from nota_cli.score.report import score_submission

SETS = {"asr": "fsdd", "aac": "esc10"}


def run(recipe: str, task: str, data: Path, out: Path) -> dict[str, float]:
    """One `nota infer`: seconds and peak resident MiB of its process."""
    command = [sys.executable, "-m", "nota_cli.cli", "infer", "--recipe", recipe, "--task", task, "--out", str(out)]
    name = SETS[task]
    command += ["--annotation", str(data / f"{name}-dev.json"), "--audio-root", str(data / name)]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--restart", "--overwrite"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return {"seconds": time.perf_counter() - begun, "peak_mib": usage.ru_maxrss / 1024}


def texts(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", nargs="+")
    parser.add_argument("--source", default="tiny")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, recipe in enumerate([options.source, *options.exports]):
            entry: dict[str, Any] = {}
            for task in SETS:
                out = Path(scratch) / f"{number}-{task}.csv"
                rounds = [run(recipe, task, options.data, out) for _ in range(options.rounds)]
                best = min(rounds, key=lambda each: each["seconds"])
                entry[task] = {key: round(value, 2) for key, value in best.items()}
                reference = texts(Path(scratch) / f"0-{task}.csv")
                pairs = zip(reference, texts(out), strict=True)
                entry[task]["other_texts"] = sum(theirs != ours for theirs, ours in pairs)
            wer = score_submission(Path(scratch) / f"{number}-asr.csv", options.data / "fsdd-dev.json", "asr")["wer"]
            entry["wer"] = round(wer, 2)
            accuracy = caption_accuracy_of_csv(Path(scratch) / f"{number}-aac.csv", options.data / "esc10-dev.json")
            entry["right_captions"] = round(100 * accuracy, 2)
            report[recipe] = entry
            print(recipe, entry, file=sys.stderr)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
