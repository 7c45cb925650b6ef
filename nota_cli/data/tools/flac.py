"""Recordings as 16 kHz mono FLAC: smaller, read faster, and the same samples where nothing had to be resampled."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from nota_cli.cores import usable_cores
from nota_cli.data.audio.clip import duration, load_clip
from nota_cli.data.audio.sound_file import sounds
from nota_cli.errors import AudioError, NotaError
from nota_cli.features.constants import SAMPLE_RATE
from nota_cli.files import atomic_path

SUFFIX = ".flac"
BITS = {"PCM_U8": "PCM_16", "PCM_S8": "PCM_16", "PCM_16": "PCM_16"}
"""libsndfile's names: what a file's samples are written as; others, more precise, as 24 bits."""


@dataclass(frozen=True)
class Converted:
    """One recording.

    Attributes:
        source: the original, untouched.
        target: the FLAC file.
        status: `written`, `kept` (it was there already) or `failed`.
        seconds: of audio.
        before: bytes of the original.
        after: bytes of the FLAC file.
        exact: whether its samples are the original's, bit for bit; None where that was not compared.
        problem: why it failed.
    """

    source: Path
    target: Path
    status: str
    seconds: float = 0.0
    before: int = 0
    after: int = 0
    exact: bool | None = None
    problem: str = ""


def to_flac(
    sources: Sequence[tuple[Path, Path]],
    *,
    workers: int | None = None,
    on_done: Callable[[Converted], None] = lambda converted: None,
) -> list[Converted]:
    """Convert recordings; originals are never touched, and what is there already is kept.

    Args:
        sources: original and target of each.
        workers: threads; as many as there are cores if not given.
        on_done: told of each as it is done, in order.
    """
    results = []
    with ThreadPoolExecutor(workers or usable_cores()) as pool:
        for result in pool.map(lambda pair: _convert(*pair), sources):
            results.append(result)
            on_done(result)
    return results


def targets(sources: Iterable[Path], root: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Where each recording under a folder goes: the same name under `out`, with `.flac`.

    Raises:
        NotaError: two of them would be the same file, or one is its own target.
    """
    taken: dict[Path, Path] = {}
    for source in sources:
        target = (out / source.relative_to(root)).with_suffix(SUFFIX)
        if target in taken:
            raise NotaError(f"{source} and {taken[target]} would both be {target}; rename one of them")
        if target.resolve() == source.resolve():
            raise NotaError(f"{source} would be written over itself; choose another --out")
        taken[target] = source
        yield source, target


def _convert(source: Path, target: Path) -> Converted:
    try:
        before = source.stat().st_size
        if target.is_file():  # written whole or not at all
            info = soundfile.info(str(target))
            return Converted(source, target, "kept", info.frames / info.samplerate, before, target.stat().st_size)
        streams = sounds(source)
        samples = load_clip([source], max_seconds=duration(source) + 1.0, min_seconds=0.0, notes=[])
        own_rate = all(sound.rate == SAMPLE_RATE for sound in streams)
        subtype = _subtype(source) if own_rate else "PCM_16"
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as part:
            soundfile.write(str(part), samples, SAMPLE_RATE, format="FLAC", subtype=subtype)
            again, _ = soundfile.read(str(part), dtype="float32")
            exact = bool(np.array_equal(again, samples)) if own_rate and _is_linear(source) else None
            if exact is False:
                raise NotaError("its samples do not fit 24 bits; the FLAC file would not be the same")
        seconds = len(samples) / SAMPLE_RATE
        return Converted(source, target, "written", seconds, before, target.stat().st_size, exact)
    except AudioError as error:
        return Converted(source, target, "failed", problem=f"{error.reason}. {error.remedy}")
    except (NotaError, OSError, soundfile.LibsndfileError) as error:
        return Converted(source, target, "failed", problem=str(error))


def _subtype(source: Path) -> str:
    try:
        return BITS.get(soundfile.info(str(source)).subtype, "PCM_24")
    except soundfile.LibsndfileError:  # what ffmpeg decodes
        return "PCM_16"


def _is_linear(source: Path) -> bool:
    """Whether the file holds whole-number samples, which FLAC keeps as they are."""
    try:
        return (
            soundfile.info(str(source)).subtype.startswith("PCM_") and "32" not in soundfile.info(str(source)).subtype
        )
    except soundfile.LibsndfileError:
        return False
