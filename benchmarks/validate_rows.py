"""How long a CSV of a million rows takes to validate, and how much memory.

    python benchmarks/validate_rows.py [--rows N] [--kind plain|quoted|repeated|worst] [--fix]

There are ten thousand ids, so most rows of such a file are wrong: ids of seven digits (plain, quoted), or each id a
hundred times (repeated); in `worst` every text has something to look at too. Measured in a process of its own; ends
with one JSON line.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = ["a", "the", "dog", "man", "child", "bird", "rain", "engine", "speaks", "barks", "sings", "falls", "loudly"]
ODD = ["café </s>", "Recognize the speech and give me the transcription.", "again and " * 12, "no\u00a0break", "NA", ""]


def write(path: Path, rows: int, kind: str) -> None:
    random.seed(1)
    with path.open("w", encoding="utf-8") as file:
        file.write("testset_id,text\n")
        for number in range(rows):
            text = " ".join(random.choices(WORDS, k=10))
            name = f"test{number % 10_000:04d}" if kind in {"repeated", "worst"} else f"test{number:07d}"
            if kind == "quoted":
                text = f'"{text}, ""said"" one"'
            elif kind == "worst":
                text = f"{text[:20]} {ODD[number % len(ODD)]}" if number % 4 else ODD[number % len(ODD)]
            file.write(f"{name},{text}\n")


def measure(path: Path, fix: bool) -> None:
    from nota_cli.submission import examine, repair

    started = time.perf_counter(), time.process_time()
    if fix:
        done = repair(path, path.with_suffix(".fixed.csv"))
        counts = done.changes.counts
    else:
        counts = examine(path).log.counts
    result = {
        "seconds": round(time.perf_counter() - started[0], 2),
        "cpu_seconds": round(time.process_time() - started[1], 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "found": dict(counts),
    }
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=["plain", "quoted", "repeated", "worst"], default="plain")
    parser.add_argument("--fix", action="store_true", help="measure the repaired copy instead")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.fix)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        write(path, arguments.rows, arguments.kind)
        command = [sys.executable, __file__, "--measure", str(path), *(["--fix"] if arguments.fix else [])]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        size = path.stat().st_size / 1e6
    kind = {"rows": arguments.rows, "kind": arguments.kind, "fix": arguments.fix, "file_mb": round(size, 1)}
    print(json.dumps(kind | json.loads(done.stdout)))


if __name__ == "__main__":
    main()
