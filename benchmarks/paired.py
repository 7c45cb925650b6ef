"""Texts of several versions of a model on the same clips, each against the first: figures, and what the change did.

    python benchmarks/paired.py --annotation data/small/l2-dev.json --task asr full=full.csv int8=int8.csv
    python benchmarks/paired.py --annotation data/small/esc10-dev.json --task aac full=full.csv int8=int8.csv

Prints a Markdown table: the figure (WER in percent by the organisers' profile, or the percent of captions that name
the right one of ESC-10's classes), its difference to the first version with a 95% interval, paired by clip (bootstrap,
2,000 samples, seed 0), how many texts differ, and how many are empty or repeat themselves.
"""

import argparse
from pathlib import Path

import numpy as np

from nota_cli.data.annotation import read_annotation
from nota_cli.data.corpora.esc10 import caption_label
from nota_cli.generation.repetition import is_looped
from nota_cli.score.report import score_clips

SAMPLES = 2_000


def figures(csv: Path, annotation: Path, task: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Hypotheses, and for each clip what is counted and out of how much: errors and words, or rights and clips."""
    clips = score_clips(csv, annotation, task).clips
    texts = [clip.hypothesis for clip in clips]
    if task == "asr":
        edits = [clip.words for clip in clips if clip.words is not None]
        return texts, np.array([each.edits for each in edits]), np.array([each.reference_words for each in edits])
    labels = [row.label for row in read_annotation(annotation)]
    right = [caption_label(text) == label for text, label in zip(texts, labels, strict=True)]
    return texts, np.array(right, float), np.ones(len(right))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+", metavar="NAME=CSV")
    parser.add_argument("--annotation", type=Path, required=True)
    parser.add_argument("--task", choices=("asr", "aac"), required=True)
    arguments = parser.parse_args()
    versions = {name: Path(csv) for name, _, csv in (word.partition("=") for word in arguments.versions)}
    measured = {name: figures(csv, arguments.annotation, arguments.task) for name, csv in versions.items()}
    first_texts, first_counts, totals = next(iter(measured.values()))
    draws = np.random.default_rng(0).integers(0, len(totals), (SAMPLES, len(totals)))
    figure = "WER" if arguments.task == "asr" else "right sound"
    print(f"| version | {figure} | difference to the first | texts that differ | empty | looped |")
    print("|---|---|---|---|---|---|")
    for name, (texts, counts, _) in measured.items():
        value = 100 * counts.sum() / totals.sum()
        changes = 100 * (counts - first_counts)[draws].sum(1) / totals[draws].sum(1)
        low, high = np.percentile(changes, (2.5, 97.5))
        change = 100 * (counts - first_counts).sum() / totals.sum()
        differing = sum(one != other for one, other in zip(texts, first_texts, strict=True))
        empty = sum(not text.strip() for text in texts)
        looped = sum(is_looped(text) for text in texts)
        cells = [name, f"{value:.1f}%", f"{change:+.1f} [{low:+.1f}, {high:+.1f}]", f"{differing} of {len(texts)}"]
        print(f"| {' | '.join(cells)} | {empty} | {looped} |")


if __name__ == "__main__":
    main()
