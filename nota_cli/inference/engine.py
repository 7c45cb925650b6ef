"""The model over rows, longest clips first: batches that fit the memory, and every answer back at its row."""

import gc
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from nota_cli.console import warn
from nota_cli.cores import usable_cores
from nota_cli.data.annotation import Row
from nota_cli.data.audio.clip import AudioNote
from nota_cli.data.row_batches import Batch, Decoded, RowBatches, tolerant_loader
from nota_cli.data.workers import AHEAD, explain_worker_crash
from nota_cli.errors import NotaError, first_line
from nota_cli.inference.batching import Segments, groups, segments
from nota_cli.inference.long_audio import join
from nota_cli.inference.results import Result, Tally, timed
from nota_cli.models.families.base import AudioModel
from nota_cli.models.memory import out_of_memory
from nota_cli.recipe.schema import Generate

MEMORY_SHARE = 0.8  # of what is free on the device; the rest is for lengths and fragments nobody foresees
LARGEST = 128  # clips in a batch; more make nothing faster, and lose more when a run is cut
ROWS_AHEAD = 64  # clips that a worker may be ahead, so that large batches do not fill the memory


class _TooLargeError(NotaError):
    """A clip does not fit the memory even alone."""


@dataclass
class _Pieces:
    """Windows of a row that are answered so far."""

    texts: list[str] = field(default_factory=list)
    looped: bool = False
    notes: list[AudioNote] = field(default_factory=list)

    def odd(self) -> dict[str, str]:
        """What is odd about the row's audio: a row is silent only if all its windows are."""
        silent = sum(note.kind == "silent" for note in self.notes)
        kept = [note for note in self.notes if note.kind != "silent" or silent == len(self.texts)]
        return {note.kind: note.text for note in kept}


class Engine:
    """One process's part of an inference run.

    Args:
        model: as built, in eval mode.
        rows: annotation rows; results name them by position.
        audio_root: what their paths are relative to.
        settings: those of a task; the recipe's if not given.
        workers: processes that decode audio, and make its features unless these are made on the model's device, ahead;
            `spare_workers` of the device if not given.
        batch_size: clips of a batch; if not given, what the settings say, and on CUDA what the memory takes.
        chunk: hear clips that are too long in overlapping windows, not their beginning alone.
    """

    def __init__(
        self,
        model: AudioModel,
        rows: Sequence[Row],
        audio_root: str | Path,
        *,
        settings: Callable[[str], Generate] | None = None,
        workers: int | None = None,
        batch_size: int | None = None,
        chunk: bool = False,
    ) -> None:
        self.model, self.rows, self.audio_root = model, rows, audio_root
        self.settings = settings or model.recipe.generate.for_task
        self.workers = spare_workers(model.device.type) if workers is None else workers
        self.batch_size, self.chunk = batch_size, chunk
        self.spec = model.preprocessor()
        self.tally = Tally()
        self._growth = 1.0  # of the settings' batch sizes, once the first batch has shown what it takes
        self._fits: int | None = None  # clips of a batch, once one has not fitted
        self._pieces: dict[int, _Pieces] = {}
        self._bad: set[int] = set()

    def run(self, positions: Sequence[int], seconds: Sequence[float], finished: Callable[[list[Result]], None]) -> None:
        """Answer rows.

        Args:
            positions: which, longest clip first (`nota_cli.inference.batching.longest_first`).
            seconds: for each of them its clip's length.
            finished: told after each batch of the rows that it finished.

        Raises:
            NotaError: a worker died.
        """
        todo = segments(positions, seconds, self.spec.max_seconds, chunk=self.chunk)
        batches = self._groups(todo)
        if self.batch_size is None and self.model.device.type == "cuda" and len(batches) > 1:
            with self._measured(len(batches[0])):
                self._do(todo, batches[:1], 0, finished)
            tried = set(batches[0])
            todo = todo.without(tried)
            batches = self._groups(todo)
        self._do(todo, batches, self.workers, finished)

    def _groups(self, todo: Segments) -> list[Sequence[int]]:
        return groups(todo, self.rows, self.settings, self._size)

    def _size(self, settings: Generate) -> int:
        size = self.batch_size or max(1, min(LARGEST, int(settings.batch_size * self._growth)))
        return min(size, self._fits or size)

    @contextmanager
    def _measured(self, clips: int) -> Iterator[None]:
        """Inside, the longest batch runs; from what it takes follows how large the others may be."""
        import torch

        device = str(self.model.device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield
        taken = torch.cuda.max_memory_allocated(device) - before
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - before
        if self._fits is None and taken > 0:
            self._growth = max(1.0, min(MEMORY_SHARE * free / taken, LARGEST / clips))

    def _do(
        self, todo: Segments, batches: list[Sequence[int]], workers: int, finished: Callable[[list[Result]], None]
    ) -> None:
        rows, windows = [self.rows[segment.row] for segment in todo], [segment.window for segment in todo]
        dataset = RowBatches(rows, batches, self.audio_root, self.spec, windows)
        ahead = max(2, min(AHEAD, ROWS_AHEAD // max(map(len, batches), default=1)))
        stream = tolerant_loader(dataset, range(len(batches)), workers, ahead)
        with closing(stream), explain_worker_crash():
            while True:
                with timed(self.tally, "wait"):
                    item = next(stream, None)
                if item is None:
                    return
                for index, note in item.notes:
                    if todo[index].row not in self._bad:
                        self._pieces.setdefault(todo[index].row, _Pieces()).notes.append(note)
                if item.bad:
                    finished(self._unusable(item, todo))  # first, for it may be the end of the run
                with timed(self.tally, "generate"):
                    results = self._answers(dataset, item, todo)
                with timed(self.tally, "write"):
                    finished(results)

    def _unusable(self, item: Decoded | Batch, todo: Segments) -> list[Result]:
        """Rows whose audio turned out bad, each once."""
        reasons = {todo[index].row: reason for index, reason in item.bad}
        return [result for row, reason in reasons.items() for result in self._reject(row, reason)]

    def _reject(self, row: int, reason: str) -> list[Result]:
        """Give a row up, whatever windows of it are answered; it is told once."""
        if row in self._bad:
            return []
        self._bad.add(row)
        self._pieces.pop(row, None)
        return [Result(row, "", reason=reason)]

    def _answers(self, dataset: RowBatches, item: Decoded | Batch, todo: Segments) -> list[Result]:
        """The rows that the batch finishes; one that does not fit the memory goes through in halves."""
        results = []
        parts = deque([item] if item.rows else [])
        while parts:
            part = parts.popleft()
            count = len(part.rows)
            if self._fits is not None and count > self._fits:
                slices = [slice(start, start + self._fits) for start in range(0, count, self._fits)]
                parts.extendleft(part.part(chosen) for chosen in reversed(slices))
                continue
            try:
                answers = self._attempt(dataset, part, [self.rows[todo[index].row] for index in part.rows])
            except _TooLargeError as error:
                results += self._reject(todo[part.rows[0]].row, str(error))
                continue
            if answers is None:
                parts.appendleft(part)
                continue
            self.tally.batch_size = max(self.tally.batch_size, count)
            for index, (text, looped) in zip(part.rows, answers, strict=True):
                results += self._piece(todo, index, text, looped)
        return results

    def _attempt(
        self, dataset: RowBatches, part: Decoded | Batch, rows: Sequence[Row]
    ) -> list[tuple[str, bool]] | None:
        """Text and whether it looped for each row; None where the memory did not do, after which less is tried."""
        try:
            batch = part if isinstance(part, Batch) else dataset.finish(part)
            encoded = self.model.encode_batch(batch.features)
            answers = self.model.generate_answers(encoded, batch.queries, self.settings(rows[0].task))
            return [(answer.text, answer.looped) for answer in answers]
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(rows) == 1:
                raise _TooLargeError(
                    f"{_name(rows[0])} does not fit the memory of {self.model.device} even alone: "
                    f"{first_line(error)}. Free some, or choose another --device."
                ) from error
            reason = first_line(error)
        self._halve(len(rows), reason)  # here, where the error no longer holds what the batch allocated
        return None

    def _halve(self, count: int, reason: str) -> None:
        if not self.tally.halvings:
            warn(f"a batch of {count} does not fit the memory and is halved, as others may be: {reason}")
        self.tally.halvings += 1
        self._fits = count // 2
        self.model.free_caches()
        gc.collect()
        if self.model.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _piece(self, todo: Segments, index: int, text: str, looped: bool) -> list[Result]:
        """The row that an answer finishes, if it does."""
        segment = todo[index]
        self.tally.audio_seconds += segment.seconds if isfinite(segment.seconds) else 0.0
        if segment.row in self._bad:
            return []  # another window of it cannot be used
        pieces = self._pieces.setdefault(segment.row, _Pieces())
        pieces.texts.append(text)
        pieces.looped |= looped
        if index + 1 < len(todo) and todo[index + 1].row == segment.row:
            return []
        del self._pieces[segment.row]
        self.tally.rows += 1
        whole = text if segment.window is None else join(pieces.texts, self.rows[segment.row].task)
        # In lower case, as the organisers submit.
        return [Result(segment.row, whole.lower(), pieces.looped, notes=pieces.odd())]


def spare_workers(device: str) -> int:
    """How many processes may decode audio ahead of a model without slowing it.

    On a CPU the model takes every core, and with fewer than four a worker only makes torch's threads wait for each
    other; beside a GPU there is always one, or it would wait for files.

    Args:
        device: type of the model's.
    """
    cores = usable_cores()
    cores //= max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return min(2, cores // 4) if device == "cpu" else max(1, min(4, cores - 1))


def _name(row: Row) -> str:
    return f"row {row.index} ({row.path})" if row.listed else row.path
