"""What lies behind a score: a CSV of all clips, the worst clips, the commonest substitutions."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from nota_cli.console import err, say
from nota_cli.files import atomic_path
from nota_cli.score.profiles import LABELS
from nota_cli.score.report import Clip, Scored
from nota_cli.score.wer import Step

GAP = "***"
"""Stands in an alignment where the other side has a word; no counted word looks like it."""
NOTHING = "(nothing)"
LONGEST = 400
"""Characters of a text, or words of an alignment, that the tables show; the CSV has all."""

_EDITS = ["edits", "substitutions", "insertions", "deletions", "reference_words"]
_LABELS = LABELS | {"exact_match": "exact match", "token_f1": "F1", "words": "words"}
_WORST_BY = ("spider", "cider_d", "token_f1")  # the first of these that the clips have, else their edits


def write_details(path: Path, clips: Sequence[Clip]) -> None:
    """Write every clip's figures and texts as a CSV that appears whole or not at all.

    Columns: `testset_id`; where words are counted `edits`, `substitutions`, `insertions`, `deletions`,
    `reference_words`; the clip's own metrics on their own scales (CIDEr-D: 0 to 10); `parsed`, what an
    answer to a question with choices was read as; `hypothesis`, `reference` (several
    are separated by ` | `); where words are counted `aligned_hypothesis` and `aligned_reference`, as many words in one
    as in the other, with `***` where one side has none.

    Raises:
        UsageError: the folder cannot be written to.
    """
    counted, measures, parsed = clips[0].words is not None, list(clips[0].measures), clips[0].parsed is not None
    columns = ["testset_id", *(_EDITS if counted else []), *measures, *(["parsed"] if parsed else [])]
    columns += ["hypothesis", "reference"]
    columns += ["aligned_hypothesis", "aligned_reference"] if counted else []
    with atomic_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for clip in clips:
            row: list[Any] = [clip.id]
            row += [getattr(clip.words, name) for name in _EDITS] if counted else []
            row += [*clip.measures.values(), *([clip.parsed] if parsed else [])]
            row += [clip.hypothesis, " | ".join(clip.references)]
            if clip.words is not None:
                steps = clip.words.alignment()
                row += [
                    " ".join(hypothesis or GAP for _, hypothesis in steps),
                    " ".join(reference or GAP for reference, _ in steps),
                ]
            writer.writerow(row)


def worst(clips: Sequence[Clip], count: int) -> list[Clip]:
    """The clips that cost most, worst first: by word edits, or captions and answers by their lowest value."""
    measure = next((name for name in _WORST_BY if name in clips[0].measures), None)
    if measure is None:
        wrong = [clip for clip in clips if clip.words is not None and clip.words.edits]
        return sorted(wrong, key=_by_edits)[:count]
    best = max(clip.measures[measure] for clip in clips)
    wrong = [clip for clip in clips if clip.measures[measure] < best]
    return sorted(wrong, key=lambda clip: clip.measures[measure])[:count]


def substitutions(clips: Sequence[Clip], count: int) -> list[tuple[str, str, int]]:
    """The commonest pairs of a reference word and the word heard in its place, and how often; ties by the alphabet."""
    pairs = Counter(
        (reference, hypothesis)
        for clip in clips
        if clip.words is not None and clip.words.substitutions
        for reference, hypothesis in clip.words.alignment()
        if reference is not None and hypothesis is not None and reference != hypothesis
    )
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return [(reference, hypothesis, times) for (reference, hypothesis), times in ordered[:count]]


def figures(report: dict[str, Any]) -> list[list[str]]:
    """The rows of the table that a person reads: figure, value, its interval."""
    intervals = report.get("intervals", {})
    rows = []
    for name, value in report.items():
        if name in ("intervals", "not_computed"):
            continue
        if name == "versions":
            value = ", ".join(f"{library} {number}" for library, number in value.items())
        cell = f"{value:.4f}" if isinstance(value, float) else str(value)
        if bounds := intervals.get(name):
            cell += f"  [{bounds[0]:.4f}, {bounds[1]:.4f}]"
        rows.append([name, cell])
    if intervals:
        samples = f"{intervals['samples']} samples, seed {intervals['seed']}"
        drawn = f"{intervals['percent']}% bootstrap over clips, {samples}"
        rows.append(["[low, high]", f"{drawn}; CIDEr-D with the corpus's idf" if report["task"] == "aac" else drawn])
    rows += [[f"no {LABELS[name]}", reason] for name, reason in report.get("not_computed", {}).items()]
    return rows


_ASIDE = (
    "task",
    "rows",
    "other_rows",
    "unknown_ids",
    "empty_texts",
    "printed",
    "note",
    "profile",
    "normalizer",
    "versions",
)


def side_by_side(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of `score_all`'s report: its profiles, and a row for each figure that any of them has."""
    profiles: dict[str, dict[str, Any]] = report["profiles"]
    names = dict.fromkeys(name for each in profiles.values() for name, _ in _cells(each))
    rows = []
    for name in names:
        cells = [dict(_cells(each)).get(name, "-") for each in profiles.values()]
        rows.append([_LABELS.get(name, name), *cells])
    return list(profiles), rows


def remarks(report: dict[str, Any]) -> list[str]:
    """What each profile of `score_all` does to the texts, and why a profile or a figure of one is missing."""
    lines = [f"{profile}: {each['normalizer']}" for profile, each in report["profiles"].items()]
    lines += [f"no profile {profile}: {reason}" for profile, reason in report["not_computed"].items()]
    for profile, each in report["profiles"].items():
        lines += [f"{profile}: no {LABELS[name]}: {reason}" for name, reason in each.get("not_computed", {}).items()]
    return lines


def _cells(report: dict[str, Any]) -> list[tuple[str, str]]:
    """A report's figures with their intervals, without what all profiles share."""
    return [(name, cell) for name, cell in figures(report) if name not in (*_ASIDE, "[low, high]") and " " not in name]


def show(scored: Scored, count: int) -> None:
    """The worst clips and, for speech, the commonest substitutions, on stderr."""
    if count < 1:
        return
    clips = worst(scored.clips, count)
    if not clips:
        say("no clip is worse than the others")
        return
    _print(_clip_table(clips, scored.report["task"] == "asr"))
    pairs = substitutions(scored.clips, count) if scored.report["task"] == "asr" else []
    if pairs:
        drawn = _table("Most frequent substitutions")
        drawn.add_column("reference", overflow="fold")
        drawn.add_column("heard", overflow="fold")
        drawn.add_column("times", justify="right")
        for reference, hypothesis, times in pairs:
            drawn.add_row(Text(_cut(reference)), Text(_cut(hypothesis)), str(times))
        _print(drawn)


def _clip_table(clips: list[Clip], speech: bool) -> Table:
    """Speech: both sides aligned, errors marked. Captions and answers: the texts as they are."""
    drawn = _table("Worst clips")
    drawn.add_column("clip", overflow="fold", min_width=8)
    names = ["edits", "words"] if speech else [_LABELS[name] for name in clips[0].measures]
    for name in names:
        drawn.add_column(name, justify="right", min_width=len(max(name.split(), key=len)))
    drawn.add_column("hypothesis", overflow="fold", ratio=1)
    drawn.add_column("reference", overflow="fold", ratio=1)
    for clip in clips:
        if speech and clip.words is not None:
            cells: list[str | Text] = [str(clip.words.edits), str(clip.words.reference_words)]
            steps = clip.words.alignment()
            texts = [_marked(steps, 1), _marked(steps, 0)]
        else:
            cells = [f"{value:.2f}" for value in clip.measures.values()]
            texts = [Text(_cut(clip.hypothesis) or NOTHING), Text("\n".join(map(_cut, clip.references)))]
        drawn.add_row(Text(clip.id), *cells, *texts)
    return drawn


def _marked(steps: list[Step], side: int) -> Text:
    """One side of an alignment: words in capitals or gaps where the sides differ, in color on a terminal."""
    if all(step[side] is None for step in steps):
        return Text(NOTHING)
    line = Text()
    for step in steps[:LONGEST]:
        word, same = step[side], step[0] == step[1]
        style = "" if same else "cyan" if step[0] is None else "red" if step[1] is None else "yellow"
        line.append(GAP if word is None else _cut(word if same else word.upper()), style).append(" ")
    if len(steps) > LONGEST:
        line.append("…")
    line.rstrip()
    return line


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _by_edits(clip: Clip) -> tuple[float, float]:
    edits, words = (clip.words.edits, clip.words.reference_words) if clip.words else (0, 0)
    return -edits, words


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", show_lines=False)


def _print(drawn: Table) -> None:
    err.print(drawn, soft_wrap=False)  # messages are not wrapped, tables are
