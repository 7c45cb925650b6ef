"""A visitor's recording, checked before a model hears it; messages name the file as it was called, and no folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nota_cli.data.audio.clip import AudioNote, duration, load_clip
from nota_cli.errors import AudioError, DataError, NotaError

MEGABYTE = 2**20  # as browsers count
SHORTER = "Cut it, or run `nota transcribe` on your own machine, which hears recordings of any length."


@dataclass(frozen=True)
class Limits:
    """What a page takes.

    Attributes:
        seconds: longest recording.
        megabytes: largest file, in units of 2^20 bytes.
    """

    seconds: float = 300.0
    megabytes: int = 50


@dataclass(frozen=True)
class VisitorRecording:
    """A recording that can be heard.

    Attributes:
        path: where it lies while it is needed.
        seconds: its length.
        waveform: float32 `[samples]` at 16 kHz.
        notes: what is odd about it, a sentence each.
    """

    path: Path
    seconds: float
    waveform: np.ndarray[Any, Any]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.path.name


def read_recording(path: Path, limits: Limits) -> VisitorRecording:
    """Read a recording, its length first.

    Raises:
        DataError: it is no audio, damaged, empty, or beyond the limits; the message is for the visitor.
    """
    notes: list[AudioNote] = []
    try:
        size = path.stat().st_size / MEGABYTE
        if size > limits.megabytes:
            raise DataError(f"{path.name} has {size:.0f} MB; this page takes {limits.megabytes}. {SHORTER}")
        seconds = duration(path, exact=False)
        if seconds > limits.seconds:
            raise DataError(
                f"{path.name} is {spoken_length(seconds)} long; this page takes recordings of up to "
                f"{spoken_length(limits.seconds)}. {SHORTER}"
            )
        waveform = load_clip([path], max_seconds=limits.seconds, min_seconds=0, notes=notes)
    except OSError:
        raise DataError("The recording is no longer here. Record or upload it again.") from None
    except NotaError as error:
        raise DataError(visitor_message(error, path)) from None
    return VisitorRecording(path, seconds, waveform, tuple(without_folder(note.text, path) for note in notes))


def visitor_message(error: NotaError, path: Path) -> str:
    """An error's message without the folders of this machine."""
    if isinstance(error, AudioError):
        return without_folder(f"{path.name}: {error.reason}. {error.remedy}", path)
    return without_folder(str(error), path)


def without_folder(message: str, path: Path) -> str:
    """A message that names a file by its name alone."""
    return message.replace(str(path), path.name).replace(str(path.parent), "")


def spoken_length(seconds: float) -> str:
    """`42.0 s`, `5 min`, `1 h 2 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
