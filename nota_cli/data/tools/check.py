"""What is wrong with an annotation and its recordings, row by row, before anybody trains or is scored on them."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nota_cli.cores import usable_cores
from nota_cli.data.annotation import Row, clip_paths, family, row_id
from nota_cli.data.audio.headers import scan
from nota_cli.data.audio.sound_file import Sound, decode, sounds
from nota_cli.errors import AudioError

KINDS = {
    "missing": "the file is not there",
    "unreadable": "the file cannot be decoded, or has no samples",
    "truncated": "the file ends before its header says",
    "long": "longer than 30 s; the rest is not heard",
    "short": "shorter than 0.1 s",
    "channels": "several channels; the first one is heard",
    "rate": "sampled at less than 16 kHz; nothing is heard above half of that",
    "clipped": "samples at full scale one after the other: the recording is clipped",
    "offset": "the samples' mean is far from zero (DC offset)",
    "silent": "there is no sound in it",
    "empty text": "the row has no text",
    "same row": "another row has the same clip, task and text",
    "same text": "another clip has the same text of six words or more",
    "leak": "the same clip is in the other annotation",
    "text too long": "more words than can be said in that time",
    "text too short": "hardly any words for that much speech",
}
"""What is looked for; the kinds from `clipped` to `silent`, and `leak` between copies of a file, need the samples."""

UNUSABLE = ("missing", "unreadable", "truncated", "empty text", "same row", "leak", "silent")
"""Rows with these are dropped by `--drop-bad`."""

LONGEST, SHORTEST = 30.0, 0.1  # seconds
LOWEST_RATE = 16_000
FULL_SCALE = 0.999
CLIPPED_RUN, CLIPPED_RUNS = 3, 5  # samples in a row at full scale, and how often
OFFSET = 0.02
PIECE_SECONDS = 600.0  # of a recording decoded at a time
SILENT = 2 / 2**15  # between the lowest and the highest sample
SAME_TEXT_WORDS = 6
FASTEST, SLOWEST = 6.0, 0.2  # words a second of speech, over the whole clip
LEAST_SECONDS = 3.0  # of a clip from which too few words are noticed
EDGE = 1.0  # seconds that every clip may add to speech: fast words in a very short clip are no fault


@dataclass(frozen=True)
class Finding:
    """Something about a row.

    Attributes:
        row: its place in the annotation, counted from 0.
        id: its id.
        kind: one of `KINDS`.
        detail: what exactly, in a few words.
    """

    row: int
    id: str
    kind: str
    detail: str


@dataclass(frozen=True)
class _Heard:
    """What the samples of a clip tell: findings by kind, and a hash of what is heard."""

    findings: tuple[tuple[str, str], ...]
    digest: str


def check_rows(
    rows: Sequence[Row],
    audio_root: Path,
    *,
    full: bool = False,
    against: Sequence[Row] = (),
    against_root: Path | None = None,
    workers: int | None = None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> list[Finding]:
    """Look at rows and their recordings.

    Args:
        rows: of the annotation.
        audio_root: what their paths are relative to.
        full: decode every recording; else headers and texts alone are looked at.
        against: rows of another annotation, whose clips these must not share (training and test).
        against_root: what the paths of those are relative to, if not the same.
        workers: threads; as many as there are cores if not given.
        on_progress: told how many more rows are done; each row is counted once for its header, once for its samples.

    Returns:
        What was found, in the rows' order, the kinds in the order of `KINDS`.
    """
    workers = workers or usable_cores()
    findings: list[Finding] = []

    def add(row: Row, kind: str, detail: str) -> None:
        findings.append(Finding(row.index, row_id(row), kind, detail))

    scanned = scan(rows, audio_root, on_progress=on_progress)
    bad = {each.row: each for each in scanned}
    by_index = {row.index: row for row in rows}
    for index, problem in bad.items():
        add(by_index[index], _kind_of(problem.reason), f"{problem.path}: {problem.reason}")
    good = [row for row in rows if row.index not in bad]
    seconds = {row.index: known for row, known in zip(rows, scanned.durations, strict=True) if known is not None}
    with ThreadPoolExecutor(workers) as pool:
        for row, heads in zip(good, pool.map(lambda row: _header(row, audio_root), good), strict=True):
            for kind, detail in heads:
                add(row, kind, detail)
        for row in good:
            length = seconds.get(row.index)
            for kind, detail in _text_and_length(row, length):
                add(row, kind, detail)
        for row in (row for row in rows if row.index in bad):
            if not _texts(row):
                add(row, "empty text", "no text")
        digests: dict[int, str] = {}
        if full:
            for row, signal in zip(good, pool.map(lambda row: _listen(row, audio_root), good), strict=True):
                on_progress(1)
                digests[row.index] = signal.digest
                for kind, detail in signal.findings:
                    add(row, kind, detail)
        others = dict(_digests(against, against_root or audio_root, full, pool))
    own = {row.index: digests.get(row.index) or _name(row, audio_root) for row in good}
    for row, other in _repeated(good, own):
        add(row, "same row", f"as row {other}")
    for row, other in _same_texts(good):
        add(row, "same text", f"as row {other}")
    for row in good:
        if own[row.index] in others:
            add(row, "leak", f"as row {others[own[row.index]]} there")
    order = list(KINDS)
    return sorted(set(findings), key=lambda each: (each.row, order.index(each.kind)))


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """How many rows have each kind of finding, by kind in the order of `KINDS`."""
    number = Counter(each.kind for each in findings)
    return {kind: number[kind] for kind in KINDS if number[kind]}


def _kind_of(reason: str) -> str:
    if any(words in reason for words in ("no such file", "no such folder", "there is no")):
        return "missing"
    return "truncated" if "truncated" in reason else "unreadable"


def _header(row: Row, audio_root: Path) -> list[tuple[str, str]]:
    problems = []
    for path in clip_paths(row, audio_root):
        for sound in sounds(path, row=row.number):
            if sound.channels > 1:
                problems.append(("channels", f"{sound.channels} channels"))
            if sound.rate < LOWEST_RATE:
                problems.append(("rate", f"{sound.rate} Hz"))
    return list(dict.fromkeys(problems))


def _texts(row: Row) -> list[str]:
    return [text for text in (row.text, *row.texts) if text and text.strip()]


def _text_and_length(row: Row, seconds: float | None) -> Iterator[tuple[str, str]]:
    if seconds is not None and seconds > LONGEST:
        yield "long", f"{seconds:.1f} s"
    if seconds is not None and seconds < SHORTEST:
        yield "short", f"{seconds:.3f} s"
    texts = _texts(row)
    if not texts:
        yield "empty text", "no text"
        return
    words = len(texts[0].split())
    if seconds is not None and family(row.task) == "asr":
        if words > FASTEST * (min(seconds, LONGEST) + EDGE):
            yield "text too long", f"{words} words in {seconds:.1f} s"
        if seconds > LEAST_SECONDS and words < SLOWEST * seconds:
            yield "text too short", f"{words} {'word' if words == 1 else 'words'} in {seconds:.1f} s"


def _listen(row: Row, audio_root: Path) -> _Heard:
    """Decode a clip at its own rate, and look at its samples; what cannot be decoded is a finding."""
    problems: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    try:
        for path in clip_paths(row, audio_root):
            for sound in sounds(path, row=row.number):
                levels = _Levels()
                for samples in _pieces(sound, row.number):
                    digest.update(np.ascontiguousarray(samples, dtype=np.float32).tobytes())
                    levels.add(samples)
                problems += levels.findings()
    except AudioError as error:
        return _Heard(((_kind_of(error.reason), f"{error.path}: {error.reason}"),), "")
    return _Heard(tuple(dict.fromkeys(problems)), digest.hexdigest())


def _pieces(sound: Sound, row: int | str | None) -> Iterator[np.ndarray[Any, Any]]:
    """The samples of a stream, a bounded number at a time."""
    size, start = int(PIECE_SECONDS * sound.rate), 0
    while True:
        samples = decode(sound, start, start + size, row)
        yield samples
        start += len(samples)
        if len(samples) < size or start == sound.frames:
            return


@dataclass
class _Levels:
    """What is known of the samples so far."""

    low: float = float("inf")
    high: float = float("-inf")
    total: float = 0.0
    number: int = 0
    clipped: int = 0

    def add(self, samples: np.ndarray[Any, Any]) -> None:
        """Look at more of them."""
        if not len(samples):
            return
        self.low, self.high = min(self.low, float(samples.min())), max(self.high, float(samples.max()))
        self.total, self.number = self.total + float(samples.sum()), self.number + len(samples)
        full = np.abs(samples) >= FULL_SCALE
        if full.any():
            edges = np.flatnonzero(np.diff(np.concatenate([[0], full.astype(np.int8), [0]])))
            self.clipped += int((edges[1::2] - edges[::2] >= CLIPPED_RUN).sum())

    def findings(self) -> Iterator[tuple[str, str]]:
        """What is wrong with them."""
        if not self.number:
            return
        if self.high - self.low <= SILENT:
            yield "silent", "no sound"
            return
        if self.clipped >= CLIPPED_RUNS:
            yield "clipped", f"{self.clipped} times {CLIPPED_RUN} samples or more at full scale"
        mean = self.total / self.number
        if abs(mean) > OFFSET:
            yield "offset", f"mean {mean:+.3f}"


def _name(row: Row, audio_root: Path) -> str:
    """Stands for a clip whose samples are not looked at: its files."""
    return "\0".join(str(path) for path in clip_paths(row, audio_root))


def _digests(rows: Sequence[Row], audio_root: Path, full: bool, pool: ThreadPoolExecutor) -> Iterator[tuple[str, int]]:
    """Clip and row of the other annotation, by samples or by files."""
    if not full:
        yield from ((_name(row, audio_root), row.index) for row in rows)
        return
    for row, signal in zip(rows, pool.map(lambda row: _listen(row, audio_root), rows), strict=True):
        if signal.digest:
            yield signal.digest, row.index


def _repeated(rows: Sequence[Row], clips: dict[int, str]) -> Iterator[tuple[Row, int]]:
    """Rows that another one before them says the same of: clip, task, question and text."""
    first: dict[tuple[str, str, str | None, str | None], int] = {}
    for row in rows:
        key = (clips[row.index], row.task, row.asked, row.text)
        if key in first:
            yield row, first[key]
        first.setdefault(key, row.index)


def _same_texts(rows: Sequence[Row]) -> Iterator[tuple[Row, int]]:
    """Rows whose long text another clip before them has."""
    first: dict[tuple[str, str], tuple[int, str]] = {}
    for row in rows:
        text = " ".join((row.text or "").lower().split())
        if len(text.split()) < SAME_TEXT_WORDS or row.question is not None:
            continue
        index, path = first.setdefault((row.task, text), (row.index, row.path))
        if path != row.path:
            yield row, index


def usable(rows: Sequence[Row], findings: Sequence[Finding]) -> list[int]:
    """Places of the rows that `--drop-bad` keeps."""
    kinds = defaultdict(set)
    for each in findings:
        kinds[each.row].add(each.kind)
    return [row.index for row in rows if not kinds[row.index] & set(UNUSABLE)]
