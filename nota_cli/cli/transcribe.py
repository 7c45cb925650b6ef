"""`nota transcribe` and `nota caption`: recordings in, texts on stdout."""

from collections import Counter
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
from nota_cli.errors import AudioError, DataError, UsageError
from nota_cli.files import check_writable, write_text

if TYPE_CHECKING:
    from nota_cli.api import Long, Task
    from nota_cli.data.annotation import Row
    from nota_cli.data.recordings import Recordings
    from nota_cli.inference.subtitles import TimedText
    from nota_cli.recipe.schema import BaseRecipe
    from nota_cli.recipe.section import LoadFormat

    Outcome = str | list[TimedText] | DataError

LongOption = Annotated[
    Literal["chunk", "cut"],
    typer.Option(
        help="For recordings over 30 s. chunk: use all, in overlapping windows. cut: use the first 30 s only."
    ),
]

Format = Literal["txt", "srt", "vtt", "json"]
FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        "-f",
        help="txt: texts. srt, vtt: subtitles, a segment from pause to pause. json: texts and segments with times.",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder for the subtitles of several recordings, NAME.srt or NAME.vtt each.")
]

app = typer.Typer()


@dataclass(frozen=True)
class _Request:
    """What is asked of which recordings, and how."""

    task: "Task"
    recordings: "Recordings"
    recipe: "BaseRecipe"
    device: str
    load_format: "LoadFormat"
    allow_missing: bool
    long: "Long"
    form: Format = "txt"
    out: Path | None = None
    as_json: bool = False

    @property
    def timed(self) -> bool:
        """Whether segments and their times are wanted."""
        return self.form != "txt"


@app.command(
    epilog="Examples: `nota transcribe my.wav`; `nota transcribe calls/ 'more/*.mp3' > texts.tsv`; "
    "`nota transcribe talk.mp3 --format srt > talk.srt`; `ffmpeg -i film.mkv -f wav - | nota transcribe -`"
)
def transcribe(
    audio: RecordingsArgument,
    recipe: RecipeOption = None,
    checkpoint: CheckpointOption = None,
    form: FormatOption = "txt",
    out: OutOption = None,
    long: LongOption = "chunk",
    settings: SetOption = None,
    device: DeviceOption = "auto",
    load_format: LoadFormatOption = "auto",
    allow_missing: AllowMissingOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print what is said in recordings.

    One file gives its text alone; several files, a folder or a glob give a line each: the path, a tab, the text.
    Recordings of any length are divided at their pauses; `--format` gives the segments with their times.
    A recording that cannot be read is named on stderr, the others are still done, and the exit status is 1.
    """
    from nota_cli.data.recordings import named_recordings

    with named_recordings(audio) as named:
        _check_form(form, out, long, as_json, named)
        chosen = pick_recipe(recipe, checkpoint, settings)
        _listen(_Request("asr", named, chosen, device, load_format, allow_missing, long, form, out, as_json))


@app.command(
    epilog="Examples: `nota caption dog.wav`; `nota caption sounds/ --json > captions.json`; "
    "`nota caption - < rain.flac`"
)
def caption(
    audio: RecordingsArgument,
    recipe: RecipeOption = None,
    checkpoint: CheckpointOption = None,
    form: FormatOption = "txt",
    out: OutOption = None,
    long: LongOption = "chunk",
    settings: SetOption = None,
    device: DeviceOption = "auto",
    load_format: LoadFormatOption = "auto",
    allow_missing: AllowMissingOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print a description of what is heard in recordings.

    One file gives its text alone; several files, a folder or a glob give a line each: the path, a tab, the text.
    Recordings of any length are divided at their pauses; `--format` gives the segments with their times.
    A recording that cannot be read is named on stderr, the others are still done, and the exit status is 1.
    """
    from nota_cli.data.recordings import named_recordings

    with named_recordings(audio) as named:
        _check_form(form, out, long, as_json, named)
        chosen = pick_recipe(recipe, checkpoint, settings)
        _listen(_Request("aac", named, chosen, device, load_format, allow_missing, long, form, out, as_json))


def _check_form(form: Format, out: Path | None, long: str, as_json: bool, named: "Recordings") -> None:
    """Refuse options that contradict each other, and subtitles that would be written over anything.

    Raises:
        UsageError: naming them.
    """
    if as_json and form in ("srt", "vtt"):
        raise UsageError(f"--json and --format {form} contradict each other; leave one out")
    if form != "txt" and long == "cut":
        raise UsageError(f"--format {form} gives the times of the whole recording; leave --long cut out")
    if out is not None and form not in ("srt", "vtt"):
        raise UsageError("--out is the folder of subtitles; add --format srt or --format vtt")
    if form not in ("srt", "vtt"):
        return
    if out is None and not named.single:
        raise UsageError(f"several recordings do not go into one {form}; name a folder for theirs with --out")
    if out is not None:
        paths = [_subtitle_path(out, str(each.name), form) for each in named.files]
        double = [str(path) for path, count in Counter(paths).items() if count > 1]
        there = [str(path) for path in paths if path.exists()]
        if double:
            raise UsageError(f"several recordings would be written to {', '.join(double)}; do them one by one")
        if there:
            raise UsageError(f"{', '.join(there[:3])} is there; choose another --out, or remove it")
        check_writable(paths[0])


def _subtitle_path(folder: Path, name: str, form: str) -> Path:
    return folder / f"{'stdin' if name == '-' else Path(name).stem}.{form}"


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
    outcomes: dict[int, Outcome] = {bad.row: DataError(bad.problem) for bad in headers}
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
    as_json = request.as_json or request.form == "json"
    for row, outcome in _texts(request, good):
        outcomes[row.index] = outcome
        if isinstance(outcome, DataError):
            if not alone:
                fail(str(outcome))
        elif not as_json:
            _give(request, row, outcome)
    if as_json:
        print_json({"task": request.task, "files": [_entry(row, outcomes[row.index]) for row in rows]})
    errors = [outcome for outcome in outcomes.values() if isinstance(outcome, DataError)]
    if errors:
        raise errors[0] if alone else DataError(f"{len(errors)} of {len(rows)} recordings cannot be used")


def _give(request: _Request, row: "Row", outcome: "str | list[TimedText]") -> None:
    """Print a recording's text, or its subtitles; or write them."""
    if isinstance(outcome, str):
        print(outcome if request.recordings.single else f"{row.id}\t{' '.join(outcome.split())}", flush=True)
        return
    from nota_cli.inference.subtitles import srt, vtt

    text = srt(outcome) if request.form == "srt" else vtt(outcome)
    if request.out is None:
        print(text, end="", flush=True)
    else:
        path = _subtitle_path(request.out, str(row.id), request.form)
        write_text(path, text)
        say(f"wrote {path}")


def _texts(request: _Request, rows: "list[Row]") -> "Iterator[tuple[Row, Outcome]]":
    """Rows with their texts as they come, under a progress bar; without rows no model is loaded."""
    if not rows:
        return
    from nota_cli.data.audio.headers import bad_file
    from nota_cli.imports import heavy_imports

    with heavy_imports():
        from nota_cli.api import AudioLM
        from nota_cli.models.device import device_for
        from nota_cli.models.loading import Loading, load

    loading = Loading(request.load_format, request.allow_missing)
    model = AudioLM(load(request.recipe, device_for(request.recipe, request.device), loading))
    with progress() as bar:
        task = bar.add_task(request.task, total=len(rows), detail="")

        def on_part(path: Path, start: float, seconds: float) -> None:
            where = f" {start:.0f} of {seconds:.0f} s" if start else ""
            bar.update(task, detail=f"{path.name}{where}")

        paths = [row.path for row in rows]
        texts: Iterator[Outcome]
        if request.timed:
            texts = model.segments(paths, request.task, on_part=on_part)
        else:
            texts = model.stream(paths, request.task, long=request.long, on_part=on_part)
        for row, text in zip(rows, texts, strict=True):
            yield row, DataError(bad_file(row, text).problem) if isinstance(text, AudioError) else text
            bar.advance(task)
        bar.update(task, detail="")


def _entry(row: "Row", outcome: "Outcome") -> dict[str, object]:
    name = {"file": row.id or row.path}
    if isinstance(outcome, DataError):
        return {**name, "error": str(outcome)}
    if isinstance(outcome, str):
        return {**name, "text": outcome}
    from nota_cli.inference.long_audio import join_segments

    whole = join_segments([part.text for part in outcome], row.task)
    segments = [{"start": round(part.start, 2), "end": round(part.stop, 2), "text": part.text} for part in outcome]
    return {**name, "text": whole, "segments": segments}
