"""What `nota infer` runs over: an annotation's rows, those of the recipe's own test set, or recordings by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nota_cli.console import say
from nota_cli.data.annotation import FAMILY_TASK, Row, annotation_bytes, of_task, parse_annotation
from nota_cli.data.recordings import STDIN, Recording, recording_rows
from nota_cli.errors import UsageError
from nota_cli.inference.provenance import data_hash, file_hash, value_hash
from nota_cli.recipe.schema import BaseRecipe


@dataclass(frozen=True)
class Selection:
    """Rows and where they are from.

    Attributes:
        rows: to be answered.
        digest: hash of the annotation as it was when `rows` were read, or of the recordings' names.
        annotation: the file; None for recordings that were named themselves.
        audio_root: what the rows' paths are relative to.
    """

    rows: list[Row]
    digest: str
    annotation: Path | None
    audio_root: Path


def select_annotation(
    recipe: BaseRecipe,
    task: str | None,
    annotation: Path | None,
    audio_root: Path | None,
    limit: int | None,
    announce: bool = True,
) -> Selection:
    """Rows of an annotation that are of the task; of the recipe's test set for it if none is given.

    Args:
        recipe: names the test sets.
        task: `asr`, `aac` or `qa`; None for all rows.
        annotation: the file, if it is not the recipe's own.
        audio_root: what its paths are relative to, if not to the file's folder.
        limit: the first so many rows.
        announce: say so where rows of other tasks are left out.

    Raises:
        UsageError: there is no such test set, or the file cannot be read.
        DataError: rows cannot be used.
    """
    if annotation is None:
        source = recipe.data.test.get(task or "")
        if source is None:
            raise UsageError(_nothing_to_run_over(task, recipe))
        annotation, audio_root = Path(source.annotation), audio_root or Path(source.audio_root)
    # Rows and hash of the same bytes: the file may be a pipe, or be saved anew while the run goes on.
    data = annotation_bytes(annotation)
    rows = parse_annotation(data, annotation, default_task=FAMILY_TASK.get(task or ""))
    chosen = of_task(rows, task, annotation)
    if announce and len(chosen) < len(rows):
        count = f"{len(chosen)} of the {len(rows)} rows"
        say(f"{count} of {annotation} are of task {task} and are run; without --task all are")
    return Selection(chosen[:limit], data_hash(data), annotation, audio_root or annotation.parent)


def select_recordings(recordings: Sequence[Recording], task: str, limit: int | None) -> Selection:
    """A row for each recording; stdin counts by its content, files by their names, as those of an annotation do."""
    chosen = recordings[:limit]
    names = [[each.name, file_hash(each.path) if each.name == STDIN else str(each.path)] for each in chosen]
    return Selection(recording_rows(chosen, FAMILY_TASK[task]), value_hash(names), None, Path())


def _nothing_to_run_over(task: str | None, recipe: BaseRecipe) -> str:
    there = list(recipe.data.test)
    remedies = [f"--task {' or --task '.join(there)} for the recipe's own test set"] if there else []
    if task != "qa":
        remedies.append(f"recordings (nota infer my.wav --task {task or 'asr'})")
    remedies.append("--annotation FILE")
    lacking = (
        "there is nothing to run over" if task is None else f"recipe {recipe.name!r} has no test set for task {task!r}"
    )
    return f"{lacking}; give {', '.join(remedies[:-1])} or {remedies[-1]}"
