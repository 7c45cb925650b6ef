"""A model and annotation rows to texts: at once, or as a run that survives what may happen to it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from nota_cli.data.annotation import Row
from nota_cli.data.audio.clip import AudioNote, NoteKind, warn_of
from nota_cli.data.audio.headers import scan
from nota_cli.errors import DataError
from nota_cli.inference.batching import UNKNOWN, longest_first
from nota_cli.inference.engine import Engine
from nota_cli.inference.results import Result
from nota_cli.models.families.base import AudioModel
from nota_cli.recipe.schema import Generate


def predict(
    model: AudioModel,
    rows: Sequence[Row],
    audio_root: str | Path,
    *,
    settings: Generate | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    on_batch: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """The text of every row, lower-cased, in the rows' order; of clips that are too long, of their beginning.

    Args:
        model: as built, in eval mode.
        rows: annotation rows.
        audio_root: what their paths are relative to.
        settings: search settings for all tasks, the recipe's if not given.
        workers: processes that work ahead; see `Engine`, as for `batch_size`.
        batch_size: clips of a batch.
        on_batch: told the number of rows that each finished batch held.

    Raises:
        DataError: a file cannot be used; the message names file and row.
    """
    engine = Engine(
        model,
        rows,
        audio_root,
        settings=None if settings is None else lambda task: settings,
        workers=workers,
        batch_size=batch_size,
    )
    # A file that is bad is told of when it is decoded.
    seconds = [UNKNOWN if known is None else known for known in scan(rows, audio_root).durations]
    texts = [""] * len(rows)
    notes: list[AudioNote] = []

    def finished(results: list[Result]) -> None:
        for result in results:
            if result.reason is not None:
                raise DataError(result.reason)
            texts[result.row] = result.text
            notes.extend(AudioNote(cast(NoteKind, kind), text) for kind, text in result.notes.items())
        on_batch(len(results))

    order = longest_first(range(len(rows)), seconds, engine.spec.max_seconds)
    engine.run(order, [seconds[position] for position in order], finished)
    warn_of(notes)
    return texts
