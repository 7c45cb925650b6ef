"""Texts of several versions of a model on the same clips, each against the first: figures, and what the change did.

    python benchmarks/paired.py --annotation data/small/l2-dev.json --task asr full=full.csv int8=int8.csv
    python benchmarks/paired.py --annotation data/small/esc10-dev.json --task aac full=full.csv int8=int8.csv

Prints a Markdown table: the figure (WER in percent by the organisers' profile, or the percent of captions that name
the right one of a corpus's classes), its difference to the first version with a 95% interval, paired by clip
(bootstrap, 2,000 samples, seed 0), how many texts differ, and how many are empty or repeat themselves.
`nota ladder` does the same of a model's exports.
"""

import argparse
from pathlib import Path

from nota_cli.ladder.figures import MEASURES, PRIMARY, change, differing, score_answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+", metavar="NAME=CSV")
    parser.add_argument("--annotation", type=Path, required=True)
    parser.add_argument("--task", choices=tuple(PRIMARY), required=True)
    arguments = parser.parse_args()
    versions = {name: Path(csv) for name, _, csv in (word.partition("=") for word in arguments.versions)}
    scored = {name: score_answers(csv, arguments.annotation, arguments.task) for name, csv in versions.items()}
    first = next(iter(scored.values()))
    measure = next(name for name in PRIMARY[arguments.task] if name in first.counts)
    label, unit = MEASURES[measure].label, MEASURES[measure].unit
    print(f"| version | {label} | difference to the first | texts that differ | empty | looped |")
    print("|---|---|---|---|---|---|")
    for name, answers in scored.items():
        counts = answers.counts[measure]
        difference = change(counts, first.counts[measure])
        bounds = "" if difference.interval is None else " [{:+.1f}, {:+.1f}]".format(*difference.interval)
        cells = [name, f"{counts.value:.1f}{unit}", f"{difference.value:+.1f}{bounds}"]
        cells += [f"{differing(answers, first)} of {len(answers.texts)}", str(answers.empty), str(sum(answers.looped))]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
