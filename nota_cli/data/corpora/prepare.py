"""What a published corpus offers (`Reader`), and how its rows become one annotation."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nota_cli.cores import usable_cores
from nota_cli.data.corpora.base import write_annotation
from nota_cli.data.corpora.clips import write_clip
from nota_cli.errors import DataError, UsageError
from nota_cli.files import file_sha256, sweep_folder, write_text

Item = dict[str, Any]
Read = Callable[[Path, str], Iterable[Item]]
GENDER = "gender_QA"
GENDER_QUESTION = "Is the speaker male or female?"


@dataclass(frozen=True)
class Reader:
    """One published corpus.

    Attributes:
        name: as in `nota data prepare NAME`.
        title: what its publishers call it.
        home: where it is published.
        license: under which terms it may be used; a note, not advice.
        splits: the official ones; the first is taken unless another is asked for.
        read: folder and split to rows, `path` relative to the folder, in the corpus's own order; nothing is looked up
            on disk but its tables, and texts are as published. A row whose recording is no file of its own has it as
            `clip`, and as `path` a name for the file that it becomes.
        metadata: names of the tables, `{split}` in them, whose hashes go into the manifest.
    """

    name: str
    title: str
    home: str
    license: str
    splits: tuple[str, ...]
    read: Read
    metadata: tuple[str, ...] = ()
    genders: Callable[[Path, str], Mapping[str, str]] | None = None
    """Folder and split to `male` or `female` by speaker, where the corpus says so: what `gender_QA` is made from."""


@dataclass
class Report:
    """What was written.

    Attributes:
        rows: of the annotation.
        missing: paths that the corpus's tables name and that are not there.
        excluded: rows left out by `--exclude`.
        files: annotation, manifest, the list of missing clips if there is one, hashes of the recordings if asked for.
        root: what the annotation's paths are relative to.
    """

    rows: int = 0
    missing: list[str] = field(default_factory=list)
    excluded: int = 0
    files: list[Path] = field(default_factory=list)
    root: Path = Path()


def prepare(
    reader: Reader,
    folder: Path,
    out: Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    exclude: Iterable[str] = (),
    task: str | None = None,
    hashes: bool = False,
    on_row: Callable[[int], None] = lambda count: None,
) -> Report:
    """Write a corpus's annotation, a manifest beside it, and the list of clips that are missing.

    The same folder gives the same bytes: rows in the corpus's own order, ids by number, texts cleaned by `clean_text`.

    Args:
        reader: the corpus.
        folder: where it lies.
        out: the annotation file.
        split: one of the reader's; the first if not given.
        limit: so many rows that are there, from the beginning.
        exclude: names of clips (without folder and suffix) that are left out, such as those of a test set.
        task: `gender_QA` asks for the speakers' gender instead of their words, where the corpus has it.
        hashes: write the SHA-256 of every recording too, in the form that `sha256sum --check` reads.
        on_row: told how many more rows are done.

    Raises:
        UsageError: no such split, or no such task in this corpus.
        DataError: the folder does not hold the corpus, or none of its clips.
        AudioError: a recording that clips are cut from cannot be read.
    """
    split = split or reader.splits[0]
    if split not in reader.splits:
        raise UsageError(f"{reader.title} has no split {split!r}; there are: {', '.join(reader.splits)}")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give the folder of {reader.title}, published at {reader.home}")
    if task is not None and (task != GENDER or reader.genders is None):
        remedy = "leave --task out" if reader.genders is None else f"leave --task out, or give {GENDER}"
        raise UsageError(f"no task {task!r} can be made of {reader.title}; {remedy}")
    unwanted, report = set(exclude), Report(root=folder)
    cut = out.with_suffix(".clips")
    sweep_folder(cut)
    rows: list[Item] = []
    try:
        genders = reader.genders(folder, split) if task and reader.genders else None
        for item in reader.read(folder, split):
            on_row(1)
            clip = item.pop("clip", None)
            if Path(item["path"]).stem in unwanted:
                report.excluded += 1
            elif genders is not None and item.get("speaker") not in genders:
                report.missing.append(item["path"])
            elif clip is not None and write_clip(clip, cut / item["path"]):
                report.root = out.parent
                rows.append(_finished({**item, "path": f"{cut.name}/{item['path']}"}, len(rows), genders))
            elif clip is None and all(
                (folder / name).is_file() for name in (item["path"], *item.get("expand_wav", ()))
            ):
                rows.append(_finished(item, len(rows), genders))
            else:
                report.missing.append(item["path"])
            if limit is not None and len(rows) == limit:
                break
    except (OSError, KeyError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{folder}: this is not {reader.title} as published at {reader.home}: {what}") from error
    if not rows:
        first = f"; the first that is missing: {report.missing[0]}" if report.missing else ""
        raise DataError(f"{folder}: none of the clips of {reader.title} ({split}) is there{first}")
    write_annotation(out, rows)
    report.rows = len(rows)
    report.files = [out, *_beside(reader, folder, split, out, report)]
    if hashes:
        report.files.append(out.with_suffix(".sha256"))
        write_text(report.files[-1], _audio_hashes(rows, report.root))
    return report


def clean_text(text: str) -> str:
    """White space to single blanks, none at the ends; capitals throughout (as in LibriSpeech) to lower case."""
    plain = " ".join(text.split())
    return plain.lower() if plain.isupper() else plain


def read_table(file: Path, separator: str = ",") -> Iterator[dict[str, str]]:
    """Rows of a CSV or TSV file by its header's names."""
    import csv

    quoting: Any = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    with file.open(encoding="utf-8-sig", newline="") as stream:
        yield from csv.DictReader(stream, delimiter=separator, quoting=quoting)


def excluded_names(file: Path) -> set[str]:
    """Names of clips in a text file, one a line, or anywhere in a JSON file; folders and suffixes do not count."""
    text = file.read_text(encoding="utf-8")
    if file.suffix.lower() != ".json":
        return {Path(line.strip()).stem for line in text.splitlines() if line.strip()}
    names: set[str] = set()
    left: list[Any] = [json.loads(text)]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str):
            names.add(Path(value).stem)
    return names


def _finished(item: Item, number: int, genders: Mapping[str, str] | None) -> Item:
    """The row as the annotation has it, cleaned; of a gender task the question and its answer."""
    if genders is not None:
        answer = f"The speaker is {genders[item['speaker']]}."
        item = {**item, "task": GENDER, "Q": GENDER_QUESTION, "text": answer}
        item.pop("texts", None)
    texts = [clean_text(text) for text in item.get("texts", ()) if text.strip()]
    text = clean_text(item["text"]) if "text" in item else texts[0]
    finished = {**item, "text": text, "testset_id": f"test{number:04d}"}
    return {**finished, "texts": texts} if len(texts) > 1 else {k: v for k, v in finished.items() if k != "texts"}


def _beside(reader: Reader, folder: Path, split: str, out: Path, report: Report) -> Sequence[Path]:
    """Manifest and missing clips, beside the annotation."""
    tables = sorted({path for name in reader.metadata for path in folder.glob(name.format(split=split))})
    manifest = {
        "corpus": reader.title,
        "home": reader.home,
        "license": reader.license,
        "split": split,
        "rows": report.rows,
        "missing": len(report.missing),
        "excluded": report.excluded,
        "annotation_sha256": file_sha256(out),
        "tables_sha256": {str(path.relative_to(folder)): file_sha256(path) for path in tables},
    }
    files = [out.with_suffix(".manifest.json")]
    write_text(files[0], json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")
    if report.missing:
        files.append(out.with_suffix(".missing.txt"))
        write_text(files[1], "\n".join(report.missing) + "\n")
    return files


def _audio_hashes(rows: Sequence[Item], root: Path) -> str:
    """A line for each recording of the rows: its SHA-256 and its path, as `sha256sum` writes them."""
    paths = sorted({name for row in rows for name in (row["path"], *row.get("expand_wav", ()))})
    with ThreadPoolExecutor(usable_cores()) as pool:
        digests = pool.map(lambda name: file_sha256(root / name), paths)
        return "".join(f"{digest}  {name}\n" for digest, name in zip(digests, paths, strict=True))
