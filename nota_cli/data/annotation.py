"""Annotation files: JSON to checked rows, with every problem of a file reported at once."""

import difflib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nota_cli.errors import DataError, UsageError, listing

FAMILIES = {
    "asr": frozenset({"asr"}),
    "aac": frozenset({"audiocaption", "audiocaption_v2"}),
    "qa": frozenset({"QA", "gender_QA"}),
}
"""What is scored alike: the task asked for on the command line -> the tasks of an annotation that belong to it."""

FAMILY_TASK = {"asr": "asr", "aac": "audiocaption_v2", "qa": "QA"}
"""The task of a row that names none, once a family has been asked for."""

KNOWN_TASKS = frozenset().union(
    *FAMILIES.values(),
    # SALMONN's further tasks, which stage 2 and test files may hold
    {"asr_de", "asr_zh", "audio_speech_description", "audio_story_telling", "emotion_recognition"},
    {"fluent_speech_audio", "gender_recognition", "keywords", "lyrics_recognition", "music_description"},
    {
        "phone_recognition",
        "slot_filling",
        "speaker_diarization_asr",
        "speaker_verification",
        "speech_audio_coreasoning",
    },
    {"speech_audio_query", "speech_query", "speech_separation", "translation_ec", "translation_en2de"},
    {"translation_en2ja"},
)


@dataclass(frozen=True)
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


def family(task: str) -> str | None:
    """The family of `FAMILIES` that a task belongs to, or None."""
    return next((name for name, tasks in FAMILIES.items() if task in tasks), None)


def row_id(row: Row) -> str:
    """The row's id in a submission: its `testset_id`, else `test` and its place in the annotation in four digits."""
    return row.id if row.id is not None else f"test{row.index:04d}"


def read_annotation(
    path: Path | str, *, default_task: str | None = None, audio_root: Path | str | None = None
) -> list[Row]:
    """All rows of `{"annotation": [{"path", "text", "task", "Q"?, "testset_id"?, "expand_wav"?}, ...]}`.

    Args:
        path: the JSON file, UTF-8.
        default_task: task of rows that name none; without it such rows are refused.
        audio_root: if given, the audio files are looked for too (see `missing_files`).

    Raises:
        UsageError: the file is not there or cannot be opened.
        DataError: the file or rows of it cannot be used; lists every problem, rows counted from 0.
    """
    items = _items(Path(path))
    rows: list[Row] = []
    problems: list[str] = []
    for index, item in enumerate(items):
        found = _row_problems(item, default_task)
        if found:
            problems += [f"row {index}: {problem}" for problem in found]
        else:
            rows.append(_row(index, item, default_task))
    problems += _repeated_ids(rows)
    if audio_root is not None:
        problems += missing_files(rows, audio_root)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{path}: {count} (rows counted from 0):\n{listing(problems)}")
    return rows


def missing_files(rows: Iterable[Row], audio_root: Path | str) -> list[str]:
    """One message for each audio file of the rows that is missing or has no bytes; each file is looked at once."""
    root = os.fspath(audio_root)
    verdicts: dict[str, str | None] = {}
    messages = []
    for row in rows:
        for name in (row.path, *row.expand):
            if name not in verdicts:
                verdicts[name] = _file_problem(os.path.join(root, name))
            if verdicts[name] is not None:
                messages.append(f"row {row.index}: {verdicts[name]}")
    return messages


def _file_problem(file: str) -> str | None:
    try:
        size = os.stat(file).st_size
    except (FileNotFoundError, NotADirectoryError):
        return f"there is no file {file}; correct `path` or the audio root"
    except OSError as error:
        return f"cannot look at {file}: {error.strerror}"
    if os.path.isdir(file):
        return f"{file} is a folder, not an audio file"
    return None if size else f"{file} is empty (0 bytes); fetch it again or remove the row"


def _items(path: Path) -> list[Any]:
    """The list under `annotation`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the annotation {path}: {error.strerror}. Check the path.") from error
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line} is not UTF-8 (byte {error.start}). Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{path}: not JSON: {error.msg} at {where}. Mend the file there.") from error
    except RecursionError as error:
        raise DataError(f"{path}: the JSON is nested too deeply to be an annotation.") from error
    shape = '{"annotation": [{"path": ..., "text": ..., "task": ...}, ...]}'
    if not isinstance(content, dict) or "annotation" not in content:
        raise DataError(f"{path}: lacks the key `annotation`. The file must look like {shape}.")
    items = content["annotation"]
    if not isinstance(items, list):
        raise DataError(f"{path}: `annotation` is {_kind(items)}, not a list. The file must look like {shape}.")
    if not items:
        raise DataError(f"{path}: `annotation` is empty. Add at least one row.")
    return items


def _row(index: int, item: dict[str, Any], default_task: str | None) -> Row:
    return Row(
        index=index,
        path=item["path"],
        task=item.get("task") or default_task or "",
        text=item.get("text"),
        question=item.get("Q"),
        id=item.get("testset_id"),
        expand=tuple(item.get("expand_wav") or ()),
        label=item.get("label"),
        speaker=item.get("speaker"),
        texts=tuple(item.get("texts") or ()),
    )


def _row_problems(item: Any, default_task: str | None) -> list[str]:
    if not isinstance(item, dict):
        return [f'is {_kind(item)}, not an object; write {{"path": ..., "text": ..., "task": ...}}']
    problems = []
    path = item.get("path")
    if path is None:
        problems.append("lacks `path`; name the audio file, relative to the audio root")
    elif not isinstance(path, str):
        problems.append(f"`path` is {_kind(path)}, not a string")
    elif not path.strip() or "\0" in path:
        problems.append("`path` is empty or has a NUL in it; name the audio file, relative to the audio root")
    task = item.get("task")
    if task is None:
        task = default_task
    problems += _task_problems(task)
    for key in ("text", "Q", "testset_id", "label", "speaker"):
        value = item.get(key)
        if value is not None and not isinstance(value, str):
            problems.append(f"`{key}` is {_kind(value)}, not a string; put it in quotes or remove it")
    if item.get("testset_id") == "":
        problems.append("`testset_id` is empty; write an id such as test0000 or remove the key")
    for key in ("expand_wav", "texts"):
        value = item.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(v, str) and v for v in value)):
            problems.append(f"`{key}` is not a list of non-empty strings")
    if isinstance(task, str) and task in FAMILIES["qa"] and item.get("Q") in (None, ""):
        problems.append(f"task {task!r} needs a question; add `Q`")
    return problems


def _task_problems(task: Any) -> list[str]:
    if task is None:
        return ["lacks `task`; add one, for example asr, audiocaption_v2 or QA"]
    if not isinstance(task, str):
        return [f"`task` is {_kind(task)}, not a string"]
    if task in KNOWN_TASKS:
        return []
    by_lower = {known.lower(): known for known in sorted(KNOWN_TASKS)}
    near = [by_lower[name] for name in difflib.get_close_matches(task.lower(), by_lower, n=3)]
    remedy = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(KNOWN_TASKS))}"
    return [f"unknown task {task!r}; {remedy}"]


def _repeated_ids(rows: Iterable[Row]) -> list[str]:
    """Ids that two rows share, among them a written id that equals one made from another row's place."""
    first: dict[str, int] = {}
    problems = []
    for row in rows:
        name = row_id(row)
        if name in first:
            problems.append(f"row {row.index}: testset_id {name!r} is also row {first[name]}'s; give each row its own")
        else:
            first[name] = row.index
    return problems


def _kind(value: Any) -> str:
    """A JSON value's kind, in JSON's own words."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")
