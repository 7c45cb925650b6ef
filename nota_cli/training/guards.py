"""What keeps a long run from ending badly: numbers that are none, memory that does not do, stuck processes, signals."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from nota_cli.console import warn
from nota_cli.data.batches import TrainingBatch
from nota_cli.errors import NotaError, listing
from nota_cli.models.memory import out_of_memory
from nota_cli.recipe.training import Train

NAMED_FILES = 10  # of a batch, in messages
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What cluster schedulers send before they end a job."""

LOST_SIGNS = ("Timed out waiting", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
"""What gloo and NCCL write of another process that does not answer any more."""


class SkippedSteps:
    """Counts steps that changed nothing because their loss or gradient was not finite.

    Args:
        most: how many are allowed.
        count: how many there were before this run was resumed.
    """

    def __init__(self, most: int, count: int = 0) -> None:
        self.most, self.count = most, count

    def add(self, step: int, files: list[str]) -> None:
        """One more.

        Raises:
            NotaError: it is one too many.
        """
        self.count += 1
        message = f"the loss or its gradient is not finite at step {step}; its files:\n{listing(files, NAMED_FILES)}"
        if self.count <= self.most:
            warn(f"{message}\nthe step is skipped ({self.count} of at most {self.most})")
            return
        raise NotaError(
            f"{message}\nThis is skipped step {self.count}, and train.max_skipped_steps allows {self.most}. Listen to "
            "the files, or lower train.learning_rate and --restart; --resume goes on from the last saved state."
        )


@contextmanager
def batch_explained(batch: TrainingBatch, spec: Train) -> Iterator[None]:
    """Inside a batch is trained on; if memory does not do for it, say which it is and what to change.

    Raises:
        NotaError: memory does not do.
    """
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        clips, seconds = len(batch.queries), batch.audio_seconds
        values = [f"train.batch_size={max(1, clips // 2)} train.accumulation={2 * spec.accumulation}"]
        if spec.batch_seconds is None:
            values.append(f"train.buckets=64 train.batch_seconds={max(1, int(batch.padded_seconds / 2))}")
        else:
            values.append(f"train.batch_seconds={max(1, int(spec.batch_seconds / 2))}")
        raise NotaError(
            f"out of memory on a batch of {clips} clips, {seconds:.0f} s of audio ({batch.padded_seconds:.0f} s with "
            f"padding):\n{listing(list(batch.names), NAMED_FILES)}\nThe last saved state is whole. Try "
            f"{', or '.join('--set ' + value.replace(' ', ' --set ') for value in values)}."
        ) from error


@contextmanager
def ranks_explained(minutes: float) -> Iterator[None]:
    """Inside processes work together; if one of the others is gone or stuck, say so.

    Args:
        minutes: how long one is waited for.

    Raises:
        NotaError: one does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in LOST_SIGNS):
            raise
        raise NotaError(
            f"another process of this run is gone, or has not answered for {minutes:g} minutes "
            f"(train.timeout_minutes): {str(error).splitlines()[0]}. Its own output has the cause. The last saved "
            "state is whole: --resume goes on, with as many processes as you like."
        ) from error


class StopSignal:
    """Whether a scheduler has asked the run to stop; as a context, it listens for that."""

    def __init__(self) -> None:
        self.name: str | None = None

    def __enter__(self) -> "StopSignal":
        self._before: dict[signal.Signals, Any] = {}
        for number in SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: whoever trains there ends it in another way
                break
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
