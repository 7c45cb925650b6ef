"""`nota transcribe` and `nota caption`: recordings in, texts on stdout."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nota_cli.cli.options import (
    AllowMissingOption,
    CheckpointOption,
    DeviceOption,
    JsonOption,
    LoadFormatOption,
    RecipeOption,
    RecordingsArgument,
    SetOption,
    pick_recipe,
)
from nota_cli.console import fail, print_json, progress, say, warn
from nota_cli.errors import AudioError, DataError

if TYPE_CHECKING:
    from nota_cli.api import Long, Task
    from nota_cli.data.annotation import Row
    from nota_cli.data.recordings import Recordings
    from nota_cli.recipe.schema import LoadFormat, Recipe

LongOption = Annotated[
    Literal["chunk", "cut"],
    typer.Option(help="Recordings over 30 s. chunk: hear all in overlapping windows. cut: hear the first 30 s alone."),
]

app = typer.Typer()


@dataclass(frozen=True)
class _Request:
    """What is asked of which recordings, and how."""

    task: "Task"
    recordings: "Recordings"
    recipe: "Recipe"
    device: str
    load_format: "LoadFormat"
    allow_missing: bool
    long: "Long"
    as_json: bool


@app.command(
    epilog="Examples: `nota transcribe my.wav`; `nota transcribe calls/ 'more/*.mp3' > texts.tsv`; "
    "`ffmpeg -i film.mkv -f wav - | nota transcribe -`"
)
def transcribe(
    audio: RecordingsArgument,
    recipe: RecipeOption = None,
    checkpoint: CheckpointOption = None,
    long: LongOption = "chunk",
    settings: SetOption = None,
    device: DeviceOption = "auto",
    load_format: LoadFormatOption = "auto",
    allow_missing: AllowMissingOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print what is said in recordings.

    One file gives its text alone; several files, a folder or a glob give a line each: the path, a tab, the text.
    A recording that cannot be read is named on stderr, the others are still done, and the exit status is 1.
    """
    from nota_cli.data.recordings import named_recordings

    with named_recordings(audio) as named:
        chosen = pick_recipe(recipe, checkpoint, settings)
        _listen(_Request("asr", named, chosen, device, load_format, allow_missing, long, as_json))


@app.command(
    epilog="Examples: `nota caption dog.wav`; `nota caption sounds/ --json > captions.json`; "
    "`nota caption - < rain.flac`"
)
def caption(
    audio: RecordingsArgument,
    recipe: RecipeOption = None,
    checkpoint: CheckpointOption = None,
    long: LongOption = "chunk",
    settings: SetOption = None,
    device: DeviceOption = "auto",
    load_format: LoadFormatOption = "auto",
    allow_missing: AllowMissingOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print a description of what is heard in recordings.

    One file gives its text alone; several files, a folder or a glob give a line each: the path, a tab, the text.
    A recording that cannot be read is named on stderr, the others are still done, and the exit status is 1.
    """
    from nota_cli.data.recordings import named_recordings

    with named_recordings(audio) as named:
        chosen = pick_recipe(recipe, checkpoint, settings)
        _listen(_Request("aac", named, chosen, device, load_format, allow_missing, long, as_json))


def _listen(request: _Request) -> None:
    """Print every recording's text, the bad ones' errors.

    Raises:
        DataError: recordings cannot be used; the others' texts are printed.
    """
    from nota_cli.data.audio.headers import scan
    from nota_cli.data.recordings import recording_rows

    for note in request.recordings.notes:
        say(note)
    rows = recording_rows(request.recordings.files, request.task)
    headers = scan(rows, Path())
    outcomes: dict[int, str | DataError] = {bad.row: DataError(bad.problem) for bad in headers}
    alone = request.recordings.single
    if not alone:
        for bad in headers:
            fail(bad.problem)
    good = [row for row in rows if row.index not in outcomes]
    if request.long == "cut":
        limit = request.recipe.audio.max_seconds
        longer = [row.id for row in good if (headers.durations[row.index] or 0.0) > limit]
        if longer:
            more = f" and {len(longer) - 3} more" if len(longer) > 3 else ""
            warn(f"only the first {limit:g} s are heard of {', '.join(map(str, longer[:3]))}{more}")
    for row, text in _texts(request, good):
        outcomes[row.index] = text
        if isinstance(text, str) and not request.as_json:
            print(text if alone else f"{row.id}\t{' '.join(text.split())}", flush=True)
        elif isinstance(text, DataError) and not alone:
            fail(str(text))
    if request.as_json:
        print_json({"task": request.task, "files": [_entry(row, outcomes[row.index]) for row in rows]})
    errors = [outcome for outcome in outcomes.values() if isinstance(outcome, DataError)]
    if errors:
        raise errors[0] if alone else DataError(f"{len(errors)} of {len(rows)} recordings cannot be used")


def _texts(request: _Request, rows: "list[Row]") -> "Iterator[tuple[Row, str | DataError]]":
    """Rows with their texts as they come, under a progress bar; without rows no model is loaded."""
    if not rows:
        return
    from nota_cli.data.audio.headers import bad_file
    from nota_cli.imports import heavy_imports

    with heavy_imports():
        from nota_cli.api import AudioLM
        from nota_cli.models.device import pick_device
        from nota_cli.models.loading import Loading, load

    loading = Loading(request.load_format, request.allow_missing)
    model = AudioLM(load(request.recipe, pick_device(request.device), loading))
    with progress() as bar:
        shown = bar.add_task(request.task, total=len(rows), detail="")

        def on_part(path: Path, start: float, seconds: float) -> None:
            where = f" {start:.0f} of {seconds:.0f} s" if start else ""
            bar.update(shown, detail=f"{path.name}{where}")

        texts = model.stream([row.path for row in rows], request.task, long=request.long, on_part=on_part)
        for row, text in zip(rows, texts, strict=True):
            yield row, DataError(bad_file(row, text).problem) if isinstance(text, AudioError) else text
            bar.advance(shown)
        bar.update(shown, detail="")


def _entry(row: "Row", outcome: str | DataError) -> dict[str, str]:
    return {"file": row.id or row.path, **({"text": outcome} if isinstance(outcome, str) else {"error": str(outcome)})}
