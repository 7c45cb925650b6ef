"""What a ladder is scored on: the rows of each annotation by task, in files that all rungs are run over."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nota_cli.console import say
from nota_cli.data.annotation import FAMILY_TASK, family, row_id
from nota_cli.data.tasks import FAMILIES
from nota_cli.data.tools.items import items_and_rows
from nota_cli.errors import DataError, UsageError, row_numbers
from nota_cli.files import write_text
from nota_cli.recipe.schema import BaseRecipe

FEWEST_CAPTIONS = 2  # CIDEr-D weighs words by how many clips have them


@dataclass(frozen=True)
class EvaluationSet:
    """Rows of one task.

    Attributes:
        name: of its column and files: `asr`, or `asr-NAME` where several annotations have the task.
        task: `asr`, `aac` or `qa`.
        source: the annotation that its rows are from.
        audio_root: what their paths are relative to.
        rows: as they are written, each with its `task` and its `testset_id`.
    """

    name: str
    task: str
    source: Path
    audio_root: Path
    rows: tuple[dict[str, object], ...]

    def file(self, folder: Path) -> Path:
        """Its annotation file in the ladder's folder."""
        return folder / "sets" / f"{self.name}.json"

    def write(self, folder: Path) -> None:
        """Write that file."""
        content = json.dumps({"annotation": self.rows}, ensure_ascii=False, indent=1)
        write_text(self.file(folder), content + "\n")


def read_sets(
    annotations: Sequence[Path], audio_roots: Sequence[Path], tasks: Sequence[str], limit: int | None
) -> list[EvaluationSet]:
    """One set for each task of each annotation.

    Args:
        annotations: their files.
        audio_roots: none (each annotation's folder), one for all, or one for each.
        tasks: leave out others; the only one of them is the task of rows that name none.
        limit: at most so many rows of each set, the first.

    Raises:
        UsageError: a file cannot be opened, or the numbers of audio roots and annotations do not agree.
        DataError: rows cannot be used or scored, or no row has such a task.
    """
    if len(audio_roots) not in (0, 1, len(annotations)):
        raise UsageError(
            f"{len(audio_roots)} times --audio-root for {len(annotations)} times --annotation: give none, one for all, "
            "or one for each in the same order"
        )
    roots = list(audio_roots) * len(annotations) if len(audio_roots) == 1 else list(audio_roots)
    roots = roots or [annotation.parent for annotation in annotations]
    read = [
        each
        for annotation, root in zip(annotations, roots, strict=True)
        for each in _sets_of(annotation, root, tasks, limit)
    ]
    counts = [sum(other.task == each.task for other in read) for each in read]
    names: list[str] = []
    for each, count in zip(read, counts, strict=True):
        name = each.task if count == 1 else f"{each.task}-{each.source.stem}"
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return [
        EvaluationSet(name, each.task, each.source, each.audio_root, each.rows)
        for name, each in zip(names, read, strict=True)
    ]


def check_prompts(sets: Sequence[EvaluationSet], recipe: BaseRecipe) -> None:
    """Every row's task needs a prompt in the recipe, and better now than after the first export.

    Raises:
        UsageError: one has none.
    """
    lacking = sorted({str(row["task"]) for each in sets for row in each.rows} - set(recipe.prompts.tasks))
    if lacking:
        raise UsageError(
            f"recipe {recipe.name!r} has no prompt for {', '.join(lacking)}; leave such rows out by --task, or add the "
            "prompt under prompts.tasks"
        )


def _sets_of(annotation: Path, root: Path, tasks: Sequence[str], limit: int | None) -> list[EvaluationSet]:
    default = FAMILY_TASK[tasks[0]] if len(tasks) == 1 else None
    items, rows = items_and_rows(annotation, default_task=default)
    sets = []
    for task in FAMILIES:
        own = [row for row in rows if family(row.task) == task and (not tasks or task in tasks)][:limit]
        if not own:
            continue
        unscored = [row.index for row in own if row.text is None]
        if unscored:
            raise DataError(f"{annotation}: {row_numbers(unscored)}: no text to score against; add `text`")
        if task == "aac" and len(own) < FEWEST_CAPTIONS:
            raise DataError(f"{annotation}: CIDEr-D needs {FEWEST_CAPTIONS} clips of task aac or more; add one")
        chosen = tuple({**items[row.index], "task": row.task, "testset_id": row_id(row)} for row in own)
        sets.append(EvaluationSet(task, task, annotation, root, chosen))
    left = sum(family(row.task) is None for row in rows)
    if left and sets:
        say(f"{left} of the {len(rows)} rows of {annotation} are of tasks that are not scored, and are left out")
    if not sets:
        there = ", ".join(sorted({family(row.task) or row.task for row in rows}))
        wanted = ", ".join(tasks or FAMILIES)
        raise DataError(f"{annotation}: none of its {len(rows)} rows is of task {wanted} (there: {there})")
    return sets
