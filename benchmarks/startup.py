"""How long `nota infer` on the shipped model takes from the shell to the CSV, or `nota --help`: two versions in turns.

    python benchmarks/startup.py OTHER_TREE [--runs 5] [--help-page]
    python benchmarks/startup.py /old/bin/python /new/bin/python

A source tree is run by this interpreter; an interpreter runs the nota that is installed for it. One argument is
compared with the tree that this file lies in. The runs take turns, so that whatever else the machine does meets both.
The first run of each, which writes bytecode and fills the disk's cache, does not count. Ends with one JSON line:
medians of wall-clock seconds and of CPU seconds (user and system), and the second version's share of the first's.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[1]
PROGRAM = "from nota_cli.cli import main; main()"


def command(version: Path) -> tuple[list[str], dict[str, str]]:
    """What runs a version, and its environment."""
    if version.is_dir():
        return [sys.executable, "-c", PROGRAM], {**os.environ, "PYTHONPATH": str(version.resolve())}
    return [str(version), "-c", PROGRAM], {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(version: Path, folder: Path, help_page: bool) -> dict[str, float]:
    """One run into a folder of its own: seconds by the clock and of CPU."""
    program, environment = command(version)
    arguments = ["--help"] if help_page else ["infer", "--task", "aac", "--out", str(folder / "texts.csv")]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*program, *arguments], env=environment, cwd=folder, check=True, capture_output=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall": wall, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", type=Path, nargs="+", help="one or two source trees or interpreters")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--help-page", action="store_true", help="time `nota --help` instead")
    arguments = parser.parse_args()
    versions = [path.absolute() for path in arguments.versions][:2]
    versions += [HERE] * (2 - len(versions))
    figures: list[list[dict[str, float]]] = [[], []]
    texts = []
    for number in range(arguments.runs + 1):
        for which, version in enumerate(versions):
            with tempfile.TemporaryDirectory() as folder:
                one = run(version, Path(folder), arguments.help_page)
                texts += [path.read_bytes() for path in Path(folder).glob("texts.csv")]
            if number:
                figures[which].append(one)
                print(f"{version}: {one['wall']:.2f} s, {one['cpu']:.2f} s of CPU", file=sys.stderr)
    medians = [{kind: round(median(one[kind] for one in runs), 2) for kind in ("wall", "cpu")} for runs in figures]
    ratios = {kind: round(medians[1][kind] / medians[0][kind], 3) for kind in ("wall", "cpu")}
    report = {"first": medians[0], "second": medians[1], "ratio": ratios, "same_texts": len(set(texts)) <= 1}
    print(json.dumps(report | {"runs": arguments.runs}))


if __name__ == "__main__":
    main()
