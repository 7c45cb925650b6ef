"""From Python: a model that is given files and says what it hears, as the command line does."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nota_cli.data.annotation import FAMILY_TASK
from nota_cli.data.audio.clip import AudioNote, duration, load_clip, warn_of
from nota_cli.errors import DataError, UsageError
from nota_cli.features.constants import SAMPLE_RATE
from nota_cli.inference import pauses
from nota_cli.inference.long_audio import join, join_segments
from nota_cli.inference.subtitles import TimedText
from nota_cli.models.build import build
from nota_cli.models.device import device_for
from nota_cli.models.families.base import AudioModel
from nota_cli.prompts import Query
from nota_cli.recipe.load import DEFAULT_RECIPE, load_system

File = str | os.PathLike[str]
Long = Literal["cut", "chunk"]
Task = Literal["asr", "aac", "qa"]
Files = File | Iterable[File]
TextHook = Callable[[str], None]


class AudioLM:
    """A system with its weights, ready to run.

    Threads may share one, and the recordings it has heard: files are read side by side, the network answers one
    caller at a time.

    Args:
        network: a model of any family, as `nota_cli.models.build.build` makes it to be run.

    Attributes:
        network: the same (`nota_cli.models.families.base.AudioModel`).
    """

    def __init__(self, network: AudioModel) -> None:
        self.network = network
        self._turn = threading.Lock()  # generation keeps a cache in the network from token to token

    @classmethod
    def from_pretrained(
        cls,
        name: File = DEFAULT_RECIPE,
        *,
        checkpoint: File | None = None,
        settings: Sequence[str] = (),
        device: str = "auto",
    ) -> "AudioLM":
        """Load a system.

        Args:
            name: a checkpoint folder, a recipe's name or a recipe file.
            checkpoint: trained weights, a folder or a `.pth`, if not those that `name` brings.
            settings: changes to the recipe, as `--set` takes them: `["generate.beams=1"]`.
            device: auto, cpu, cuda or cuda:N.

        Raises:
            RecipeError: no such recipe, or values that it cannot have.
            CheckpointError: weights that are missing or do not fit.
            UsageError: the device is not there.
        """
        weights = None if checkpoint is None else Path(checkpoint)
        recipe = load_system(os.fspath(name), weights, list(settings))
        return cls(build(recipe, device_for(recipe, device), "run"))

    def transcribe(self, files: Files, *, long: Long = "cut") -> str | list[str]:
        """What is said in each file: of a list of paths a list of texts, of one path one text.

        Args:
            files: paths of sound files, read as `nota infer` reads them; samples have to be written to a file first.
            long: what becomes of recordings longer than the model hears at once, 30 s as a rule. `cut`: the rest is
                left out, as the organisers do. `chunk`: they are heard in overlapping windows, the texts joined.

        Raises:
            DataError: a file cannot be used; the message names it.
            UsageError: `files` are no paths, or `long` is neither.
        """
        return self._answers(files, "asr", None, long)

    def caption(self, files: Files, *, long: Long = "cut") -> str | list[str]:
        """What is heard in each file; as `transcribe`."""
        return self._answers(files, "aac", None, long)

    def ask(self, files: Files, question: str, *, long: Long = "cut") -> str | list[str]:
        """The answer to one question about each file; otherwise as `transcribe`.

        Raises:
            DataError: a file cannot be used; the message names it.
            UsageError: `files` are no paths, `long` is neither, or the question is empty or no text.
        """
        return self._answers(files, "qa", question, long)

    def load_recording(self, file: File) -> "Recording":
        """Read and encode a recording once, to ask several things about it.

        Raises:
            DataError: the file cannot be used; the message names it.
            UsageError: `file` is no path.
        """
        return Recording(self, file)

    hear = load_recording  # its name until 0.1

    @property
    def max_seconds(self) -> float:
        """How much of a recording is heard at once."""
        return self.network.recipe.audio.max_seconds

    def features(self, waves: list[np.ndarray[Any, Any]]) -> Any:
        """What the model sees of clips at 16 kHz."""
        return self.network.preprocessor().features(waves)

    def stream(
        self,
        files: Iterable[File],
        task: Task,
        *,
        question: str | None = None,
        long: Long = "cut",
        on_part: Callable[[Path, float, float], None] = lambda path, start, seconds: None,
    ) -> Iterator[str | DataError]:
        """The text of each file, in order and as soon as it is there; an error in place of one that cannot be used.

        Args:
            files: paths of sound files.
            task: what is asked: `asr`, what is said; `aac`, what is heard; `qa`, the question.
            question: of `qa`.
            long: as in `transcribe`.
            on_part: called before each window of a file is read, with the file, the window's start and the file's
                length, both in seconds; the length is 0 where `long` is `cut`.

        Raises:
            UsageError: `files` are no paths, `long` or `task` is none of those, or the question is empty or no text.
        """
        if task not in FAMILY_TASK:
            raise UsageError(f"task={task!r}: there are {', '.join(map(repr, FAMILY_TASK))}")
        if long not in ("cut", "chunk"):
            raise UsageError(f"long={long!r}: there are 'cut' and 'chunk'")
        check_question(FAMILY_TASK[task], question)
        paths = [path_of(file) for file in files]
        return map(_text_of, self._stream(paths, FAMILY_TASK[task], question, long, on_part))

    def segments(
        self,
        files: Iterable[File],
        task: Task = "asr",
        *,
        on_part: Callable[[Path, float, float], None] = lambda path, start, seconds: None,
    ) -> Iterator[list[TimedText] | DataError]:
        """The texts of each file from pause to pause, with their times; otherwise as `stream`.

        Args:
            files: paths of sound files, of any length.
            task: `asr` or `aac`.
            on_part: as in `stream`.

        Raises:
            UsageError: `files` are no paths, or the task is neither.
        """
        if task not in ("asr", "aac"):
            raise UsageError(f"task={task!r}: there are 'asr' and 'aac'")
        paths = [path_of(file) for file in files]
        return map(_timed_texts_of, self._stream(paths, FAMILY_TASK[task], None, "segments", on_part))

    def _answers(self, files: Files, task: Task, question: str | None, long: Long) -> str | list[str]:
        one = isinstance(files, (str, os.PathLike)) or not isinstance(files, Iterable)
        several: Any = [files] if one else files
        texts = []
        for text in self.stream(several, task, question=question, long=long):
            if isinstance(text, DataError):
                raise text
            texts.append(text)
        return texts[0] if one else texts

    def _stream(
        self,
        paths: Sequence[Path],
        task: str,
        question: str | None,
        long: "Long | Literal['segments']",
        on_part: Callable[[Path, float, float], None],
    ) -> "Iterator[_Pending]":
        """Batches take windows of several files; a file's text is given once all of its windows are answered."""
        size = self.network.settings_for(task).batch_size
        batch: list[tuple[_Pending, np.ndarray[Any, Any]]] = []
        waiting: deque[_Pending] = deque()
        for path in paths:
            pending = _Pending(path, task)
            waiting.append(pending)
            try:
                for wave in self._waves(pending, long, on_part):
                    batch.append((pending, wave))
                    if len(batch) == size:
                        self._answer(batch, task, question)
                        yield from _finished(waiting, set())
            except DataError as error:
                pending.error = error
            pending.read = True
            yield from _finished(waiting, {id(other) for other, _ in batch})
        self._answer(batch, task, question)
        yield from _finished(waiting, set())

    def _answer(self, batch: "list[tuple[_Pending, np.ndarray[Any, Any]]]", task: str, question: str | None) -> None:
        """Answer the windows of a batch, and empty it."""
        if not batch:
            return
        queries = [Query(task, question, key=pending.path.name) for pending, _ in batch]
        features = self.features([wave for _, wave in batch])
        with self._turn:
            answers = self.network.generate_answers(features, queries)
        for (pending, _), answer in zip(batch, answers, strict=True):
            pending.texts.append(answer.text)
        batch.clear()

    def _waves(
        self,
        pending: "_Pending",
        long: "Long | Literal['segments']",
        on_part: Callable[[Path, float, float], None],
    ) -> Iterator[np.ndarray[Any, Any]]:
        """What the model hears of a file, window by window; which of them are of which segment is noted down."""
        limit, path = self.max_seconds, pending.path
        if long == "cut":
            on_part(path, 0.0, 0.0)
            yield load_clip([path], max_seconds=limit)
            return
        notes_by_kind: dict[str, AudioNote] = {}
        notes: list[AudioNote] = []
        silent = True
        seconds = duration(path)
        whole = long == "chunk" and seconds <= limit
        pending.spans = [(0.0, seconds)] if whole else pauses.segments(_loudness(path, seconds, limit), seconds, limit)
        groups = pauses.context_windows(pending.spans, seconds, limit)
        pending.windows = [len(group) for group in groups]
        for start, stop in (window for group in groups for window in group):
            on_part(path, start, seconds)
            yield load_clip([path], max_seconds=limit, start=start, stop=stop, notes=notes)
            silent = silent and any(note.kind == "silent" for note in notes)
            notes_by_kind |= {note.kind: note for note in notes}
            notes.clear()
        if not silent:
            notes_by_kind.pop("silent", None)
        warn_of(notes_by_kind.values())


@dataclass(eq=False)
class _Pending:
    """A file of which windows are still to be read or answered."""

    path: Path
    task: str
    texts: list[str] = field(default_factory=list)
    spans: list[pauses.Span] = field(default_factory=lambda: [(0.0, 0.0)])
    windows: list[int] = field(default_factory=lambda: [1])  # of each span
    read: bool = False
    error: DataError | None = None


def _finished(waiting: "deque[_Pending]", in_batch: set[int]) -> Iterator[_Pending]:
    """The first of the waiting files, as far as they are read and answered."""
    while waiting and waiting[0].read and id(waiting[0]) not in in_batch:
        yield waiting.popleft()


def _timed_texts_of(pending: _Pending) -> list[TimedText] | DataError:
    """The text of each segment, from its windows."""
    if pending.error is not None:
        return pending.error
    texts = iter(pending.texts)
    parts = [[next(texts) for _ in range(count)] for count in pending.windows]
    joined = [join(part, pending.task) if len(part) > 1 else part[0] for part in parts]
    return [TimedText(start, stop, text) for (start, stop), text in zip(pending.spans, joined, strict=True)]


def _text_of(pending: _Pending) -> str | DataError:
    """The text of all segments."""
    parts = _timed_texts_of(pending)
    if isinstance(parts, DataError):
        return parts
    return join_segments([part.text for part in parts], pending.task)


def _loudness(path: Path, seconds: float, most: float) -> np.ndarray[Any, Any]:
    """Of a whole recording, read piece by piece."""
    size = max(1, int(most / pauses.HOP_SECONDS)) * pauses.HOP_SECONDS

    def pieces() -> Iterator[np.ndarray[Any, Any]]:
        for number in range(int(np.ceil(seconds / size))):
            start = number * size
            stop = min(start + size, seconds)
            yield load_clip([path], max_seconds=size, min_seconds=0, start=start, stop=stop, notes=[])

    return pauses.levels(pieces(), SAMPLE_RATE)


class Recording:
    """One file, encoded; every question is answered on its own, whatever was asked before.

    Attributes:
        seconds: its length, of which no more than the model's `max_seconds` are heard.
    """

    def __init__(self, model: AudioLM, file: File) -> None:
        path = path_of(file)
        self.name, self.seconds = path.name, duration(path)
        self._network, self._turn = model.network, model._turn
        features = model.features([load_clip([path], max_seconds=model.max_seconds)])
        with self._turn:
            self._encoded = self._network.encode(features)

    def transcribe(self, on_text: TextHook | None = None) -> str:
        """What is said; `on_text` is called with the text so far after every token, except in a beam search."""
        return self._answer(FAMILY_TASK["asr"], None, on_text)

    def caption(self, on_text: TextHook | None = None) -> str:
        """What is heard; as `transcribe`."""
        return self._answer(FAMILY_TASK["aac"], None, on_text)

    def ask(self, question: str, on_text: TextHook | None = None) -> str:
        """The answer to a question about it; as `transcribe`."""
        return self._answer(FAMILY_TASK["qa"], question, on_text)

    def _answer(self, task: str, question: str | None, on_text: TextHook | None) -> str:
        check_question(task, question)
        query = Query(task, question, key=self.name)
        with self._turn:
            return self._network.generate_answers(self._encoded, [query], on_text=on_text)[0].text


def check_question(task: str, question: str | None) -> None:
    """A question is to be asked where the task needs one.

    Raises:
        UsageError: it is empty or no text.
    """
    if question is not None and not isinstance(question, str):
        raise UsageError(f"a question is one text, asked about every file; this is of type {type(question).__name__}")
    if task == FAMILY_TASK["qa"] and not (question or "").strip():
        raise UsageError("the question is empty; write what you want to know of the recording")


def path_of(file: File) -> Path:
    """The path of a sound file that a caller named.

    Raises:
        UsageError: it is something else, samples perhaps.
    """
    if isinstance(file, (str, os.PathLike)):
        return Path(file)
    raise UsageError(
        f"a sound file's path is wanted, or a list of paths, and this is of type {type(file).__name__}; "
        "write samples to a file first, with soundfile.write for example"
    )
