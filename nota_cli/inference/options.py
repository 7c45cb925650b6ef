"""What `nota infer` is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nota_cli.data.recordings import Recording
from nota_cli.inference.bad_audio import OnError
from nota_cli.models.loading import Loading


@dataclass(frozen=True)
class InferOptions:
    """What the command line asks for.

    Attributes:
        recordings: what to run over instead of an annotation.
        workers: processes that decode audio; None for as many as there are cores to spare.
        batch_size: clips of a batch; None for the recipe's, or on CUDA what the memory takes.
        on_error: what becomes of rows whose audio cannot be used.
        chunk: hear clips that are too long in overlapping windows, not their beginning alone.
        restart: throw away what an earlier run has finished.
        overwrite: replace a finished CSV of another run.
        audio_root_moved: take the recordings for those of the run that was cut, though they lie elsewhere now.
    """

    task: str | None = None
    annotation: Path | None = None
    recordings: Sequence[Recording] = ()
    audio_root: Path | None = None
    out: Path | None = None
    limit: int | None = None
    device: str = "auto"
    workers: int | None = None
    loading: Loading = Loading()
    batch_size: int | None = None
    on_error: OnError = "stop"
    chunk: bool = False
    restart: bool = False
    overwrite: bool = False
    audio_root_moved: bool = False
