"""Kills `nota infer` at random moments again and again, and looks whether anything was lost or done twice.

    python benchmarks/kills.py                # 500 clips, 10 kills
    python benchmarks/kills.py --processes 2  # under torchrun

The shipped model runs over its own recordings, each named many times. After each `kill -9` the same command runs
again, the last time undisturbed. Its CSV has to be that of a run that nobody killed, to the byte, and no row may have
been computed twice but those of the batches in flight. Ends with one JSON line, and with status 1 if that is not so.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

SAMPLES = Path(__file__).resolve().parents[1] / "checkpoints" / "tiny" / "samples"
POLL_SECONDS = 0.002


def write_annotation(path: Path, count: int) -> Path:
    known = [row for task in ("asr", "aac") for row in json.loads((SAMPLES / f"{task}.json").read_text())["annotation"]]
    rows = [{**known[index % len(known)], "testset_id": f"test{index:04d}"} for index in range(count)]
    path.write_text(json.dumps({"annotation": rows}))
    return path


def command(annotation: Path, out: Path, processes: int, batch_size: int) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    given = ["infer", "--annotation", annotation, "--audio-root", SAMPLES, "--out", out, "--batch-size", batch_size]
    return [sys.executable, *(launcher if processes > 1 else []), "-m", "nota_cli.cli", *map(str, given)]


def journal_lines(out: Path) -> list[str]:
    """Whole lines of all journals, headers left out."""
    lines = []
    for path in sorted(out.parent.glob(f"{out.name}.journal*")):
        try:
            text = path.read_text(errors="replace")
        except FileNotFoundError:
            continue  # taken over at this moment
        lines += [line for line in text.splitlines(keepends=True)[1:] if line.endswith("\n")]
    return lines


def kill_at(arguments: list[str], out: Path, rows: int, log: Path) -> bool:
    """Run until so many rows are in the journals, and kill everything; False if it ended before."""
    with log.open("ab") as file:
        run = subprocess.Popen(arguments, stdout=file, stderr=file, start_new_session=True)
    while len(journal_lines(out)) < rows:
        if run.poll() is not None:
            return False
        time.sleep(POLL_SECONDS)
    time.sleep(random.random() * 0.05)  # anywhere in a batch
    for pid in [run.pid, *descendants(run.pid)]:  # torchrun gives each of its processes a session of its own
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.wait()
    return True


def descendants(pid: int) -> list[int]:
    """Children, their children and so on."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [*children, *(deeper for child in children for deeper in descendants(child))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotation = write_annotation(folder / "rows.json", given.clips)
        whole, out, log = folder / "whole.csv", folder / "out.csv", folder / "log"
        with log.open("ab") as file:
            subprocess.run(command(annotation, whole, 1, given.batch_size), stdout=file, stderr=file, check=True)
        arguments = command(annotation, out, given.processes, given.batch_size)
        kills, in_flight = 0, given.batch_size * given.processes
        for goal in sorted(random.sample(range(1, given.clips - 2 * in_flight), given.kills)):
            kills += kill_at(arguments, out, max(goal, len(journal_lines(out)) + 1), log)
        counts = Counter(json.loads(line)["row"] for line in journal_lines(out))
        kept = len(counts)
        with log.open("ab") as file:
            subprocess.run(arguments, stdout=file, stderr=file, check=True)
        told = json.loads(out.with_suffix(".run.json").read_text())
        found = {
            "clips": given.clips,
            "processes": given.processes,
            "kills": kills,
            "identical": out.read_bytes() == whole.read_bytes(),
            "rows_in_journals_twice": sum(count > 1 for count in counts.values()),
            "kept_before_the_last_run": kept,
            "resumed": told["resumed_rows"],
            "computed_in_the_last_run": told["computed_rows"],
            "left": sorted(path.name for path in folder.glob("out.*")),
        }
        print(json.dumps(found))
        good = found["identical"] and told["resumed_rows"] == kept and told["computed_rows"] == given.clips - kept
        if not good or found["rows_in_journals_twice"]:
            print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
            raise SystemExit(1)


if __name__ == "__main__":
    main()
