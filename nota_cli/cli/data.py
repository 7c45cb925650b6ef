"""`nota data`: look at annotations and recordings, and change them."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nota_cli.cli.options import JsonOption
from nota_cli.console import print_json, progress, say, table, warn
from nota_cli.errors import UsageError

if TYPE_CHECKING:
    from nota_cli.data.tools.check import Finding

SHOWN = 20  # findings printed, and in the JSON all
AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".webm", ".aiff", ".au", ".w64", ".caf")

app = typer.Typer(
    help="Look at annotations and recordings, and change them: check, stats, to-flac, split, sample, merge.",
    no_args_is_help=True,
)
Annotation = Annotated[Path, typer.Argument(help="Annotation file (JSON).")]
Root = Annotated[
    Path | None, typer.Option(help="Folder that the annotation's paths are relative to (default: its own folder).")
]
Seed = Annotated[int, typer.Option(help="Seed of the draw: the same seed gives the same rows.")]


@app.command("check", epilog="Example: `nota data check data/train.json --full --against data/test.json`")
def data_check(
    annotation: Annotation,
    audio_root: Root = None,
    full: Annotated[
        bool, typer.Option("--full", help="Decode every recording: clipping, DC offset, silence, equal samples.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(help="Another annotation, such as the test set, whose clips must not be here.")
    ] = None,
    against_root: Annotated[Path | None, typer.Option(help="Audio root of --against (default: its folder).")] = None,
    drop_bad: Annotated[
        Path | None, typer.Option(help="Write the annotation without its unusable rows to this file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List what is wrong, row by row: files, lengths, channels, levels, texts, copies. Exit status 1 if anything is."""
    from nota_cli.data.annotation import read_annotation
    from nota_cli.data.corpora.base import write_annotation
    from nota_cli.data.tools.check import KINDS, UNUSABLE, check_rows, counts, usable
    from nota_cli.data.tools.items import annotation_items

    if drop_bad is not None:
        _check_output("--drop-bad", drop_bad, annotation, against)
    rows = read_annotation(annotation)
    others = [] if against is None else read_annotation(against)
    root = audio_root or annotation.parent
    with progress() as bar:
        bar_task = bar.add_task("check", total=len(rows) * (2 if full else 1), detail="")
        findings = check_rows(
            rows,
            root,
            full=full,
            against=others,
            against_root=against_root or (None if against is None else against.parent),
            on_progress=lambda count: bar.advance(bar_task, count),
        )
    number = counts(findings)
    kept = usable(rows, findings)
    if as_json:
        listed = [{"row": each.row, "id": each.id, "kind": each.kind, "detail": each.detail} for each in findings]
        print_json({"rows": len(rows), "findings": listed, "counts": number, "usable": len(kept)})
    elif findings:
        _show(findings, number, KINDS)
    unusable = f"{len(rows) - len(kept)} rows are unusable ({', '.join(UNUSABLE)})"
    say(f"{len(rows)} rows, {len(findings)} findings; {unusable}")
    if drop_bad is not None:
        items = annotation_items(annotation)
        write_annotation(drop_bad, [items[index] for index in kept])
        say(f"{len(kept)} rows written to {drop_bad}")
    if findings:
        raise typer.Exit(1)


def _show(findings: "list[Finding]", number: dict[str, int], kinds: dict[str, str]) -> None:
    table("What was found", ["kind", "rows", "meaning"], [[kind, str(n), kinds[kind]] for kind, n in number.items()])
    rows = [[str(each.row), each.id, each.kind, each.detail] for each in findings[:SHOWN]]
    title = "Rows" if len(findings) <= SHOWN else f"The first {SHOWN} of {len(findings)} (--json has all)"
    table(title, ["row", "id", "kind", "what"], rows)


@app.command("stats", epilog="Example: `nota data stats data/train.json --out stats`")
def data_stats(
    annotation: Annotation,
    out: Annotated[Path | None, typer.Option(help="Folder for stats.md, stats.html and pictures (PNG).")] = None,
    audio_root: Root = None,
    loudness: Annotated[
        bool, typer.Option("--loudness/--no-loudness", help="Decode every clip for its level; else read headers only.")
    ] = True,
) -> None:
    """Count rows, hours and words by task and source; with --out also draw lengths, words and loudness."""
    from nota_cli.data.annotation import read_annotation
    from nota_cli.data.tools.stats import COLUMNS, group_rows, statistics, summary_rows, write_statistics

    if out is not None:
        for name in ("stats.md", "stats.html", "durations.png", "words.png", "loudness.png"):
            _check_output("--out", out / name, annotation)
    rows = read_annotation(annotation)
    with progress() as bar:
        bar_task = bar.add_task("stats", total=len(rows) * (2 if loudness else 1), detail="")
        summary = statistics(
            rows,
            audio_root or annotation.parent,
            loudness=loudness,
            on_progress=lambda count: bar.advance(bar_task, count),
        )
    table(annotation.name, COLUMNS, group_rows(summary))
    table("Clips", ["", "least", "median", "most"], summary_rows(summary))
    if out is not None:
        for path in write_statistics(summary, annotation.name, out):
            say(f"wrote {path}")


@app.command("to-flac", epilog="Example: `nota data to-flac recordings --out flac --annotation data/train.json`")
def data_to_flac(
    folder: Annotated[Path, typer.Argument(help="Folder of recordings; those in its folders too.")],
    out: Annotated[Path, typer.Option(help="Folder for the FLAC files, under the same names.")],
    annotation: Annotated[
        Path | None,
        typer.Option(help="Also write this annotation, its paths below FOLDER, with the new names, to --out."),
    ] = None,
) -> None:
    """Turn recordings into 16 kHz mono FLAC; originals are not touched, files that are there already are kept."""
    from nota_cli.data.corpora.base import write_annotation
    from nota_cli.data.tools.flac import SUFFIX, targets, to_flac
    from nota_cli.data.tools.items import annotation_items

    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; name the one that holds the recordings")
    sources = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO and path.is_file())
    if not sources:
        raise UsageError(f"{folder}: no recordings in it ({' '.join(AUDIO)})")
    items = None if annotation is None else annotation_items(annotation)
    with progress() as bar:
        bar_task = bar.add_task("flac", total=len(sources), detail="")
        done = to_flac(list(targets(sources, folder, out)), on_done=lambda _: bar.advance(bar_task))
    failed = [each for each in done if each.status == "failed"]
    for each in failed:
        warn(f"{each.source}: {each.problem}")
    good = [each for each in done if each.status != "failed"]
    if items is not None and annotation is not None:
        for item in items:
            item["path"] = str(Path(item["path"]).with_suffix(SUFFIX))
            if "expand_wav" in item:
                item["expand_wav"] = [str(Path(name).with_suffix(SUFFIX)) for name in item["expand_wav"]]
        write_annotation(out / annotation.name, items)
        say(f"wrote {out / annotation.name}")
    before, after = sum(each.before for each in good), sum(each.after for each in good)
    rows = [
        ["written", str(sum(each.status == "written" for each in good))],
        ["kept, were there", str(sum(each.status == "kept" for each in good))],
        ["failed", str(len(failed))],
        ["same samples", str(sum(each.exact is True for each in good))],
        ["resampled or lossy", str(sum(each.exact is None and each.status == "written" for each in good))],
        ["hours", f"{sum(each.seconds for each in good) / 3600:.2f}"],
        ["MB before", f"{before / 1e6:,.1f}"],
        ["MB after", f"{after / 1e6:,.1f}"],
    ]
    table("FLAC", ["", ""], rows)
    if failed:
        raise typer.Exit(1)


@app.command("split", epilog="Example: `nota data split all.json --out data train=0.8 dev=0.1 test=0.1`")
def data_split(
    annotation: Annotation,
    parts: Annotated[list[str], typer.Argument(help="Parts and their shares: NAME=SHARE ...")],
    out: Annotated[Path, typer.Option(help="Folder for NAME.json of each part.")],
    seed: Seed = 0,
) -> None:
    """Divide an annotation; speakers stay together, every task and source keeps its proportion."""
    from nota_cli.data.corpora.base import write_annotation
    from nota_cli.data.tools.division import split
    from nota_cli.data.tools.items import annotation_items

    shares = dict(map(_share, parts))
    for name in shares:
        _check_output("--out", out / f"{name}.json", annotation)
    divided = split(annotation_items(annotation), shares, seed)
    for name, items in divided.items():
        write_annotation(out / f"{name}.json", items)
    speakers = [str(len({item.get("speaker") for item in items if item.get("speaker")})) for items in divided.values()]
    rows = [
        [str(out / f"{name}.json"), str(len(items)), count]
        for (name, items), count in zip(divided.items(), speakers, strict=True)
    ]
    table("Split", ["file", "rows", "speakers"], rows)


@app.command("sample", epilog="Example: `nota data sample all.json --count 100 --out few.json`")
def data_sample(
    annotation: Annotation,
    count: Annotated[int, typer.Option(min=1, help="Number of rows to draw.")],
    out: Annotated[Path, typer.Option(help="The annotation file to write.")],
    seed: Seed = 0,
) -> None:
    """Draw rows at random; every task and source keeps its proportion."""
    from nota_cli.data.corpora.base import write_annotation
    from nota_cli.data.tools.division import sample
    from nota_cli.data.tools.items import annotation_items

    _check_output("--out", out, annotation)
    write_annotation(out, sample(annotation_items(annotation), count, seed))
    say(f"{count} rows written to {out}")


@app.command("merge", epilog="Example: `nota data merge speech.json=speech sounds.json=sounds --out all.json`")
def data_merge(
    annotations: Annotated[
        list[str],
        typer.Argument(help="Annotation files, with =FOLDER where paths are relative to that folder of the root."),
    ],
    out: Annotated[Path, typer.Option(help="The annotation file to write.")],
) -> None:
    """Put annotations together under one audio root; ids that two of them share are numbered anew."""
    from nota_cli.data.corpora.base import write_annotation
    from nota_cli.data.tools.division import merge
    from nota_cli.data.tools.items import annotation_items

    named = [(Path(file), folder) for file, _, folder in (word.partition("=") for word in annotations)]
    _check_output("--out", out, *(file for file, _ in named))
    merged = merge([(annotation_items(file), folder) for file, folder in named])
    write_annotation(out, merged)
    say(f"{len(merged)} rows written to {out}")


def _share(word: str) -> tuple[str, float]:
    name, separator, text = word.partition("=")
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not separator or not name.isidentifier() or share <= 0:
        raise UsageError(f"{word!r}: write a part as NAME=SHARE, for example train=0.8")
    return name, share


def _check_output(option: str, out: Path, *inputs: Path | None) -> None:
    """Refuse to write over what is read."""
    from nota_cli.outputs import Input, Output, check_outputs

    read: Iterable[Any] = [Input("the annotation", path) for path in inputs if path is not None]
    check_outputs([Output(option, out)], read)


@app.command("prepare", epilog="Example: `nota data prepare librispeech LibriSpeech --split dev-clean --out dev.json`")
def data_prepare(
    corpus: Annotated[
        str,
        typer.Argument(
            help="Corpus: librispeech, gigaspeech, common-voice, speechocean762, clotho, audiocaps, wavcaps, musicnet "
            "or esc50; or a table: FILE.csv, .tsv, .jsonl or .parquet."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder of the corpus, or that a table's paths are relative to.")],
    out: Annotated[Path, typer.Option(help="The annotation file to write; a manifest goes beside it.")],
    split: Annotated[str | None, typer.Option(help="Official split (default: the corpus's first).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Write so many rows only.")] = None,
    exclude: Annotated[
        list[Path] | None, typer.Option(help="File of clip names to leave out (text or JSON). Repeatable.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=COLUMN",
            help="Read a key of the rows (path, text, task, Q ...) from this column of the table. Repeatable.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Task of a table's rows that name none (default: asr), or gender_QA of a corpus that has it."
        ),
    ] = None,
    hashes: Annotated[
        bool, typer.Option("--hashes", help="Write the SHA-256 of every recording too, for `sha256sum --check`.")
    ] = False,
) -> None:
    """Write the annotation of a published corpus, or of a table of your own, with a manifest and the missing clips."""
    from nota_cli.data.corpora.prepare import excluded_names, prepare
    from nota_cli.data.corpora.published import reader_of
    from nota_cli.data.corpora.tables import table_reader

    table_file = Path(corpus)
    if table_file.suffix and table_file.is_file():
        columns = dict((word.partition("=")[0], word.partition("=")[2]) for word in column or ())
        reader, task = table_reader(table_file, columns, task), None
    else:
        reader = reader_of(corpus)
    inputs = [folder, *([table_file] if table_file.is_file() else []), *(exclude or ())]
    for written in (out, *(out.with_suffix(suffix) for suffix in (".manifest.json", ".missing.txt", ".sha256"))):
        _check_output("--out", written, *inputs)
        if written.exists() and _is_sound_file(written):
            raise UsageError(f"--out {written} is a recording; name an annotation file to write")
    names: set[str] = set().union(*(excluded_names(path) for path in exclude or ()))
    with progress() as bar:
        bar_task = bar.add_task("prepare", total=None, detail=reader.title)
        report = prepare(
            reader,
            folder,
            out,
            split=split,
            limit=limit,
            exclude=names,
            task=task,
            hashes=hashes,
            on_row=lambda count: bar.advance(bar_task, count),
        )
    if report.missing:
        warn(f"{len(report.missing)} clips of {reader.title} are not there: {out.with_suffix('.missing.txt')}")
    say(f"license of {reader.title}: {reader.license}")
    if report.root != folder:
        say(f"the clips were written to {out.with_suffix('.clips')}; --audio-root of this annotation is {report.root}")
    rows = [["rows", str(report.rows)], ["missing", str(len(report.missing))], ["excluded", str(report.excluded)]]
    table("Prepared", ["", ""], [*rows, *(["file", str(path)] for path in report.files)])


def _is_sound_file(path: Path) -> bool:
    """Whether a file is a sound: no annotation is written over one, whatever its name."""
    import soundfile

    try:
        soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError):
        return False
    return True
