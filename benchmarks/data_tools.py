"""100,000 small recordings through `nota data prepare` and `nota data check`: seconds, and the most memory taken.

    python benchmarks/data_tools.py --rows 100000

The recordings are 0.2 s of noise each, made in a temporary folder, which is removed again.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

RUN = (
    "import resource, sys; sys.argv[0] = 'nota'\nfrom nota_cli.cli import main\n"
    "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\nelse:\n    code = 0\n"
    "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)\nsys.exit(code)"
)


def run(*arguments: object) -> None:
    started = time.monotonic()
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    peak = done.stderr.rsplit("PEAK", 1)[-1].strip()
    print(f"nota {' '.join(map(str, arguments[:2]))}: {time.monotonic() - started:.1f} s, peak {peak} MB", flush=True)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "table.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "text", "task"])
            for number in range(rows):
                path = f"{number // 1000:03d}/{number}.wav"
                (folder / path).parent.mkdir(exist_ok=True)
                soundfile.write(folder / path, rng.normal(0, 0.1, 3_200), 16_000)
                writer.writerow([path, f"clip {number}", "asr"])
        print(f"{rows} recordings made", flush=True)
        run("data", "prepare", folder / "table.csv", folder, "--out", folder / "all.json")
        run("data", "check", folder / "all.json")
        run("data", "check", folder / "all.json", "--full")


if __name__ == "__main__":
    main()
