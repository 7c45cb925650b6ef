"""What every corpus shares: its entry among those with labels, and the annotation files that its preparer writes."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from nota_cli.errors import DataError, listing
from nota_cli.files import write_text

Row = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """One annotation file that was written.

    Attributes:
        path: the file.
        rows: how many clips it lists.
        groups: the speakers (digits) or classes (sounds) in it.
        seconds: audio in all its rows, without the silence between joined files.
    """

    path: Path
    rows: int
    groups: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Corpus:
    """A corpus that nota knows.

    Attributes:
        name: as in `nota prepare NAME`.
        title: what its publishers call it.
        home: where it is published.
        licence: under which terms its recordings are offered.
        prepare: writes its annotation files: folder of the corpus, folder for the files -> what was written.
        labels: the classes that its rows may have as `label`; none if its rows are judged by their texts.
        label_of: the class that a caption names, or None if it names none, or more than one.
        metric: name of the rate of captions that name the right class, in validation metrics.
    """

    name: str
    title: str
    home: str
    licence: str
    prepare: Callable[[Path, Path], list[Prepared]]
    labels: frozenset[str] = frozenset()
    label_of: Callable[[str], str | None] | None = None
    metric: str = ""


def write_annotation(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as `{"annotation": [...]}`, one row a line, whole or not at all."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    write_text(path, f'{{"annotation": [\n{lines}\n]}}\n')


def corpus_folder(folder: Path, corpus: str, home: str) -> Path:
    """The folder, which has to be there.

    Raises:
        DataError: it is not; the message names the corpus and where it is published.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give the folder of {corpus}, published at {home}")
    return folder


def durations(paths: Iterable[Path]) -> dict[Path, float]:
    """Seconds of each recording, by their headers.

    Raises:
        DataError: recordings cannot be read or have no samples; all of them are named.
    """
    seconds: dict[Path, float] = {}
    problems = []
    for path in paths:
        try:
            info = soundfile.info(str(path))
        except soundfile.LibsndfileError as error:
            problems.append(f"{path}: {error.error_string}")
            continue
        if info.frames <= 0:
            problems.append(f"{path}: no samples")
        seconds[path] = info.frames / info.samplerate
    if problems:
        raise DataError(
            f"{len(problems)} recordings cannot be read; fetch them again or take them out\n{listing(problems)}"
        )
    return seconds


def write_prepared(out_dir: Path, name: str, rows: list[Row], group: str, seconds: float) -> Prepared:
    """Write one annotation file; `group` is the column that its groups are counted by."""
    path = Path(out_dir) / name
    write_annotation(path, rows)
    return Prepared(path, len(rows), tuple(sorted({row[group] for row in rows})), seconds)


def spans(numbers: Iterable[int]) -> str:
    """Sorted numbers with commas between, for messages."""
    return ", ".join(str(number) for number in sorted(numbers))
