"""Annotation files: JSON to checked rows, with every problem of a file reported at once."""

import functools
import json
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nota_cli.data.choices import choice_problems, lettered
from nota_cli.data.row_files import missing
from nota_cli.data.tasks import FAMILIES, KNOWN_TASKS, near_tasks
from nota_cli.errors import DataError, UsageError, listing_by_row, printable
from nota_cli.files import refuse_lfs_pointer
from nota_cli.parsing import ParseError, decode, parse_json
from nota_cli.paths import audio_path, path_note

FAMILY_TASK = {"asr": "asr", "aac": "audiocaption_v2", "qa": "QA"}
"""The task of a row that names none, once a family has been asked for."""

LONGEST_QUOTE = 60  # characters of a file's own words repeated in a message
SHAPE = '{"annotation": [{"path": ..., "text": ..., "task": ...}, ...]}'
WRAP_LINES = (
    'Put the objects, with commas between them, into {"annotation": [...]}, for example by '
    "jq -s '{annotation: .}' ROWS.jsonl > ROWS.json"
)
PREPARE_TABLE = "Make one of it: nota data prepare TABLE.csv FOLDER --out ROWS.json --column text=COLUMN"
PUNCTUATION = re.compile(r"[\W_]+")
KEYS = {
    PUNCTUATION.sub("", key).lower(): key
    for key in ("path", "task", "text", "Q", "testset_id", "expand_wav", "label", "speaker", "texts", "choices")
}
KNOWN_KEYS = frozenset(KEYS.values())
HALF_A_PAIR = "half of a surrogate pair, which is no character; write the text again as UTF-8"

PLAIN_KEYS = frozenset({"path", "task", "text", "label", "speaker"})
PLAIN_TASKS = KNOWN_TASKS - FAMILIES["qa"]


@dataclass(frozen=True, slots=True)
class Row:
    """One clip and what is known of it.

    Attributes:
        index: place in the annotation, counted from 0.
        path: audio file, relative to the audio root or absolute.
        task: one of `KNOWN_TASKS`.
        text: reference or training target.
        question: `Q`, which replaces the `{}` of a QA prompt.
        id: `testset_id`.
        expand: `expand_wav`, files appended to the clip.
        label: class of the sound, where the corpus has one.
        speaker: who speaks, where the corpus says so.
        texts: further wordings of `text`, one of which is drawn in training.
        listed: an annotation has this row; otherwise the recording itself was named on the command line.
        choices: the answers that a question offers; `text` is the right one of them or its letter.
    """

    index: int
    path: str
    task: str
    text: str | None
    question: str | None
    id: str | None
    expand: tuple[str, ...]
    label: str | None = None
    speaker: str | None = None
    texts: tuple[str, ...] = ()
    listed: bool = True
    choices: tuple[str, ...] = ()

    @property
    def asked(self) -> str | None:
        """The question as a model gets it: with its choices, each with its letter, where it has some."""
        return lettered(self.question, self.choices) if self.question and self.choices else self.question

    @property
    def number(self) -> int | None:
        """The row's number for messages; None where no annotation has it."""
        return self.index if self.listed else None


def family(task: str) -> str | None:
    """The family of `FAMILIES` that a task belongs to, or None."""
    return next((name for name, tasks in FAMILIES.items() if task in tasks), None)


def of_task(rows: list[Row], task: str | None, path: Path | str) -> list[Row]:
    """The rows of one family of `FAMILIES`, or all of them without one; they keep their `index`.

    Raises:
        DataError: there are none; the message names the families that there are.
    """
    if task is None:
        return rows
    chosen = [row for row in rows if family(row.task) == task]
    if not chosen:
        others = ", ".join(sorted({family(row.task) or row.task for row in rows}))
        raise DataError(
            f"{printable(str(path))}: none of its {len(rows)} rows belongs to task {task} (there: {others}). "
            "Choose another --task, or leave it out for all rows."
        )
    return chosen


def row_id(row: Row) -> str:
    """The row's id in a submission: its `testset_id`, else `test` and its place in the annotation in four digits."""
    return row.id if row.id is not None else default_id(row.index)


def default_id(index: int) -> str:
    """The id of a row that has no `testset_id`, by its place."""
    return f"test{index:04d}"


def read_annotation(
    path: Path | str, *, default_task: str | None = None, audio_root: Path | str | None = None
) -> list[Row]:
    """All rows of `{"annotation": [{"path", "text", "task", "Q"?, "testset_id"?, "expand_wav"?}, ...]}`.

    Args:
        path: the JSON file, UTF-8.
        default_task: task of rows that name none; without it such rows are refused.
        audio_root: if given, the audio files are looked for too (see `row_files.missing_files`).

    Raises:
        UsageError: the file is not there or cannot be opened.
        DataError: the file or rows of it cannot be used; names every such row, counted from 0.
    """
    return parse_annotation(annotation_bytes(path), path, default_task=default_task, audio_root=audio_root)


def annotation_bytes(path: Path | str) -> bytes:
    """What the file holds.

    Raises:
        UsageError: it is not there or cannot be opened.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path | str, error: OSError) -> UsageError:
    """What to say of an annotation that the system does not give."""
    note = (path_note(os.fspath(path)) if isinstance(error, FileNotFoundError) else None) or "Check the path."
    return UsageError(f"cannot read the annotation {printable(str(path))}: {error.strerror}. {note}")


def parse_annotation(
    data: bytes, path: Path | str, *, default_task: str | None = None, audio_root: Path | str | None = None
) -> list[Row]:
    """The rows of an annotation that is read already; otherwise as `read_annotation`.

    Raises:
        DataError: `data` is not JSON of an annotation, or has rows that cannot be used; each is named.
    """
    items = parse_items(data, printable(str(path)))
    items.reverse()
    taken = (items.pop() for _ in range(len(items)))  # so that a long file's objects make room for its rows
    return rows_of(taken, path, default_task=default_task, audio_root=audio_root)


def rows_of(
    items: Iterable[Any], path: Path | str, *, default_task: str | None = None, audio_root: Path | str | None = None
) -> list[Row]:
    """The rows of `path` from the values that it has for them; otherwise as `parse_annotation`."""
    rows: list[Row] = []
    problems: list[tuple[int, str]] = []
    for index, item in enumerate(items):
        row_problems = check_row(item, default_task)
        if row_problems:
            problems += [(index, problem) for problem in row_problems]
        else:
            rows.append(make_row(index, item, default_task))
    problems += repeated_ids(rows)
    if audio_root is not None:
        problems += missing(rows, audio_root)
    refuse(path, problems)
    return rows


def refuse(path: Path | str, problems: list[tuple[int, str]]) -> None:
    """Raise a DataError that names all problems of an annotation's rows; with none, do nothing."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{printable(str(path))}: {count} (rows counted from 0):\n{listing_by_row(problems)}")


def parse_items(data: bytes, label: str) -> list[Any]:
    """The list under `annotation`, its items not checked; a DataError says why there is none."""
    refuse_lfs_pointer(label, data, DataError)
    try:
        text = decode(data)
        content = parse_json(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{label}: line {line} is not UTF-8 (byte {error.start}). Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        if _is_json_lines(text):
            raise DataError(f"{label}: holds one JSON object a line (JSON lines). {WRAP_LINES}") from error
        if Path(label).suffix.lower() in (".csv", ".tsv"):
            raise DataError(f"{label}: is a table, and annotations are JSON. {PREPARE_TABLE}") from error
        where = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{label}: not JSON: {error.msg} at {where}. Mend the file there.") from error
    except ParseError as error:
        raise DataError(f"{label}: {error}") from error
    except ValueError as error:  # a number of more digits than Python converts
        raise DataError(f"{label}: holds a number of thousands of digits. Mend the file.") from error
    except RecursionError as error:
        raise DataError(f"{label}: the JSON is nested too deeply to be an annotation.") from error
    if isinstance(content, list):
        raise DataError(f"{label}: is a list. Put it under the key `annotation`: {SHAPE}.")
    if isinstance(content, dict) and "annotation" not in content and "path" in content:
        raise DataError(f"{label}: is a single row. {WRAP_LINES}")
    if not isinstance(content, dict) or "annotation" not in content:
        raise DataError(f"{label}: lacks the key `annotation`. The file must look like {SHAPE}.")
    items = content["annotation"]
    if not isinstance(items, list):
        raise DataError(f"{label}: `annotation` is {json_kind(items)}, not a list. The file must look like {SHAPE}.")
    if not items:
        raise DataError(f"{label}: `annotation` is empty. Add at least one row.")
    return items


def _is_json_lines(text: str) -> bool:
    """Whether a text that is not one JSON document is objects one after the other."""
    decoder, at, count = json.JSONDecoder(), 0, 0
    with suppress(ValueError, RecursionError):  # the rows are, and one of them is not whole
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            value, at = decoder.raw_decode(text, at)
            if not isinstance(value, dict):
                return False
            count += 1
    return count > 1


def wordings(item: dict[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """`text` and `texts` of a good row as the file has it, where `text` may be a list of both."""
    text, texts = item.get("text"), tuple(item.get("texts") or ())
    return (text[0], (*text[1:], *texts)) if isinstance(text, list) else (text, texts)


def make_row(index: int, item: dict[str, Any], default_task: str | None) -> Row:
    """A good row (`check_row`) of the file."""
    text, texts = wordings(item)
    return Row(
        index=index,
        path=item["path"],
        task=sys.intern(item.get("task") or default_task or ""),
        text=text,
        question=item.get("Q"),
        id=item.get("testset_id"),
        expand=tuple(item.get("expand_wav") or ()),
        label=item.get("label"),
        speaker=item.get("speaker"),
        texts=texts,
        choices=tuple(item.get("choices") or ()),
    )


def check_row(item: Any, default_task: str | None) -> list[str]:
    """What is wrong with a row as the file has it, and what to do about each; nothing of a good one."""
    if _is_plain(item):
        return []
    if not isinstance(item, dict):
        return [f'is {json_kind(item)}, not an object; write {{"path": ..., "text": ..., "task": ...}}']
    problems = misspelt_keys(item)
    path = item.get("path")
    if path is None:
        problems.append("lacks `path`; name the audio file, relative to the audio root")
    elif not isinstance(path, str):
        problems.append(f"`path` is {json_kind(path)}, not a string")
    elif not path.strip() or "\0" in path:
        problems.append("`path` is empty or has a NUL in it; name the audio file, relative to the audio root")
    elif not _encodes(path, "surrogateescape"):
        problems.append(f"`path` holds {HALF_A_PAIR}")
    task = item.get("task")
    if task is None:
        task = default_task
    problems += _task_problems(task)
    for key in ("text", "Q", "testset_id", "label", "speaker"):
        value = item.get(key)
        if key == "text" and isinstance(value, list):
            continue  # wordings, looked at below
        if value is not None and not isinstance(value, str):
            problems.append(f"`{key}` is {json_kind(value)}, not a string; put it in quotes or remove it")
        elif value is not None and not _encodes(value):
            problems.append(f"`{key}` holds {HALF_A_PAIR}")
    if item.get("testset_id") == "":
        problems.append("`testset_id` is empty; write an id such as test0000 or remove the key")
    if item.get("text") == []:
        problems.append("`text` is an empty list; write the reference, or remove the key")
    for key in ("expand_wav", "texts", "text"):
        value = item.get(key)
        if key == "text" and not isinstance(value, list):
            continue
        if value is not None and not (isinstance(value, list) and all(isinstance(v, str) and v for v in value)):
            problems.append(f"`{key}` is not a list of non-empty strings")
        elif value and not all(_encodes(v, "surrogateescape" if key == "expand_wav" else "strict") for v in value):
            problems.append(f"`{key}` holds {HALF_A_PAIR}")
    if isinstance(task, str) and task in FAMILIES["qa"] and item.get("Q") in (None, ""):
        problems.append(f"task {task!r} needs a question; add `Q`")
    if item.get("choices") is not None:
        if isinstance(task, str) and task in FAMILIES["asr"] | FAMILIES["aac"]:
            problems.append(f"`choices` belong to a question, and task {task!r} asks none; set task QA or remove them")
        problems += choice_problems(item["choices"], item.get("text"))
    return problems


def _is_plain(item: Any) -> bool:
    """Whether a row has the commonest keys alone, and good texts under them, as most have: of millions, in one go."""
    try:
        return (
            item.keys() <= PLAIN_KEYS
            and item["task"] in PLAIN_TASKS
            and _encodes("".join(item.values()))
            and "\0" not in item["path"]
            and bool(item["path"].strip())
        )
    except (AttributeError, KeyError, TypeError):
        return False


def misspelt_keys(item: dict[str, Any]) -> list[str]:
    """Keys that would be read if they were written as ours are, and would be lost as they stand; others are allowed."""
    if item.keys() <= KNOWN_KEYS:
        return []
    return [
        f"the key {_quoted(key)} is not read; did you mean `{KEYS[plain]}`?"
        for key in item.keys() - KNOWN_KEYS
        if (plain := PUNCTUATION.sub("", key).lower()) in KEYS and KEYS[plain] not in item
    ]


def _task_problems(task: Any) -> list[str]:
    if task is None:
        return ["lacks `task`; add one, for example asr, audiocaption_v2 or QA"]
    if not isinstance(task, str):
        return [f"`task` is {json_kind(task)}, not a string"]
    return [] if task in KNOWN_TASKS else [_unknown_task(task)]


@functools.lru_cache(maxsize=256)
def _unknown_task(task: str) -> str:
    near = near_tasks(task[:LONGEST_QUOTE], KNOWN_TASKS, FAMILY_TASK)
    remedy = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(KNOWN_TASKS))}"
    return f"unknown task {_quoted(task)}; {remedy}"


def repeated_ids(rows: Iterable[Row]) -> list[tuple[int, str]]:
    """Ids that two rows share, among them a written id that equals one made from another row's place."""
    first: dict[str, int] = {}
    problems = []
    for row in rows:
        name = row_id(row)
        if name in first:
            problem = f"testset_id {_quoted(name)} is also row {first[name]}'s; give each row its own"
            problems.append((row.index, problem))
        else:
            first[name] = row.index
    return problems


def _encodes(text: str, errors: str = "strict") -> bool:
    """Whether the text can be written as UTF-8; JSON's escapes can name halves of characters, which cannot."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8", errors)
    except UnicodeEncodeError:
        return False
    return True


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]!r}..."


def json_kind(value: Any) -> str:
    """A JSON value's kind, in JSON's own words."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")


def clip_paths(row: Row, audio_root: str | Path) -> list[Path]:
    """The row's file and those that `expand_wav` appends to it."""
    names = (row.path, *row.expand)
    return [Path(audio_path(audio_root, name) if row.listed else Path(audio_root) / name) for name in names]
