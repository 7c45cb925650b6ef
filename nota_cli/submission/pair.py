"""The two CSVs of a team, one for each competition, checked together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nota_cli.data.annotation import FAMILY_TASK, read_annotation
from nota_cli.submission.problems import Log
from nota_cli.submission.rows import Report, examine, families
from nota_cli.submission.texts import like_caption

ROWS = 10
"""Texts are compared where there are so many at least."""


@dataclass
class Pair:
    """What is wrong with each of the two files, and with the two together."""

    asr: Report
    aac: Report
    together: Log = field(default_factory=Log)


def examine_pair(asr: Path, aac: Path, annotations: Sequence[Path] = ()) -> Pair:
    """Check a CSV of transcripts and one of captions, each against the annotations' rows of its task.

    Raises:
        UsageError: a file is not there.
        DataError: an annotation cannot be used.
    """
    pair = Pair(examine(asr, annotations, "asr"), examine(aac, annotations, "aac"))
    if annotations:
        _check_rows(pair, annotations)
    else:
        _check_shared(pair)
    _check_texts(pair)
    return pair


def _check_rows(pair: Pair, annotations: Sequence[Path]) -> None:
    """Whether each file answers the other's rows and none of its own."""
    rows = [row for path in annotations for row in read_annotation(path, default_task=FAMILY_TASK["asr"])]
    groups = families(rows)
    speech, sounds = groups.get("asr", {}), groups.get("aac", {})
    asr, aac = pair.asr.texts.keys(), pair.aac.texts.keys()
    if asr & sounds.keys() and aac & speech.keys() and not asr & speech.keys() and not aac & sounds.keys():
        pair.together.add("swapped-files", "each file answers the other task's rows of the annotation")


def _check_shared(pair: Pair) -> None:
    """Ids in both files are right only where each competition numbers its own clips from test0000 on."""
    asr, aac = pair.asr.texts.keys(), pair.aac.texts.keys()
    shared = asr & aac
    if shared and not (_from_zero(set(asr)) and _from_zero(set(aac))):
        which = f"all {len(shared):,} ids" if asr == aac else f"{len(shared):,} of {len(asr):,} and {len(aac):,} ids"
        pair.together.add("shared-ids", f"{which} are in both files, first {min(shared)}", id=min(shared))


def _from_zero(ids: set[str]) -> bool:
    return all(f"test{number:04d}" in ids for number in range(len(ids)))


def _check_texts(pair: Pair) -> None:
    asr, aac = pair.asr.texts, pair.aac.texts
    same = [name for name in asr.keys() & aac.keys() if asr[name] == aac[name]]
    smaller = min(len(asr), len(aac))
    if smaller and len(same) > smaller / 2:
        message = f"{len(same):,} ids have the same text in both files, first {min(same)}"
        pair.together.add("same-texts", message, id=min(same))
    elif smaller >= ROWS:
        shares = [sum(map(like_caption, texts.values())) / len(texts) for texts in (asr, aac)]
        if shares[0] > 0.5 and shares[1] < 0.25:
            message = f"{shares[0]:.0%} of the transcripts read like captions, and {shares[1]:.0%} of the captions"
            pair.together.add("swapped-texts", message)
