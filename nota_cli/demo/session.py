"""Models that visitors may ask, and answers that grow token by token, with what they cost."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nota_cli.api import AudioLM, Task
from nota_cli.efficiency.memory import meter


@dataclass(frozen=True)
class Cost:
    """What an answer took; None where it is not known.

    Attributes:
        first_token: seconds from opening the recording to the first token.
        per_token: seconds for each token after it, on average.
        tokens: how many there were, the end symbol included; 0 where the search does not go by the token.
        seconds: from opening the recording to the whole text.
        peak_bytes: most memory in use meanwhile, of the whole process on a CPU.
    """

    first_token: float | None
    per_token: float | None
    tokens: int
    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Answer:
    """The text so far; `cost` is there once it is whole."""

    text: str
    cost: Cost | None = None


class System:
    """A model under the name that visitors see.

    Attributes:
        name: its recipe's.
        weight_bytes: of all its weights.
        hears_seconds: how much of a recording it hears.
    """

    _turn = threading.Lock()  # of all systems: times and memory are those of one answer

    def __init__(self, name: str, model: AudioLM) -> None:
        self.name, self.model = name, model
        self.weight_bytes = sum(part.bytes for part in model.network.parts())
        self.hears_seconds = model.max_seconds
        self._meter = meter(model.network.device)

    def answer(self, path: Path, task: Task, question: str | None = None) -> Iterator[Answer]:
        """The text as it grows, at last with its cost; closing the iterator ends the search.

        Args:
            path: the recording.
            task: `asr`, `aac` or `qa`.
            question: of `qa`.

        Raises:
            NotaError: what `AudioLM` raises.
        """

        def work(give: Callable[[Answer], None]) -> None:
            with self._turn:
                give(self._answered(path, task, question, give))

        return in_background(work)

    def _answered(self, path: Path, task: Task, question: str | None, give: Callable[[Answer], None]) -> Answer:
        moments: list[float] = []

        def on_text(text: str) -> None:
            moments.append(time.perf_counter())
            give(Answer(text))

        self._meter.restart()
        start = time.perf_counter()
        recording = self.model.load_recording(path)
        if task == "qa":
            text = recording.ask(question or "", on_text)
        else:
            text = (recording.transcribe if task == "asr" else recording.caption)(on_text)
        seconds = time.perf_counter() - start
        first = moments[0] - start if moments else None
        later = (moments[-1] - moments[0]) / (len(moments) - 1) if len(moments) > 1 else None
        return Answer(text, Cost(first, later, len(moments), seconds, self._meter.peak()))


class _Closed(Exception):
    """Nobody waits for the rest."""


def in_background(work: Callable[[Callable[[Answer], None]], None]) -> Iterator[Answer]:
    """What a function gives, from a thread of its own; of answers that come faster than they are taken, the newest.

    Args:
        work: called with what takes an answer, the last one with its cost. Where nobody waits for more, that raises.
    """
    answers: queue.SimpleQueue[Answer | Exception] = queue.SimpleQueue()
    closed = threading.Event()

    def give(answer: Answer) -> None:
        if closed.is_set():
            raise _Closed
        answers.put(answer)

    def run() -> None:
        try:
            work(give)
        except Exception as error:  # raised again where the answers are taken
            answers.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            item = answers.get()
            while isinstance(item, Answer) and item.cost is None and not answers.empty():
                item = answers.get()
            if isinstance(item, Exception):
                raise item
            yield item
            if item.cost is not None:
                return
    finally:
        closed.set()
