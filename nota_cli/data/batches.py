"""Annotation rows to batches of features: at random for training, in order for inference."""

from collections import defaultdict
from collections.abc import Generator as Stream
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch.utils.data import Dataset

from nota_cli.data.annotation import Row, clip_paths, read_annotation, row_id
from nota_cli.data.audio.clip import AudioNote, load_clip
from nota_cli.data.augment import augment_waveform, crop, mask_spectrogram, mix, roll, weaken
from nota_cli.data.workers import AHEAD, made_ahead
from nota_cli.errors import DataError
from nota_cli.features.batch import Features, extract
from nota_cli.features.constants import SAMPLE_RATE
from nota_cli.prompts import Query
from nota_cli.recipe.schema import Augment, Source

Window = tuple[float, float]
CACHE_BYTES = 512 * 2**20  # decoded clips kept by each worker, so that a small corpus is decoded once


@dataclass(frozen=True)
class Batch:
    """What a step of training or inference needs of some rows; `bad` and `notes` as in `Decoded`."""

    features: Features
    queries: list[Query]
    texts: list[str]
    labels: list[str | None]
    rows: list[int]
    bad: tuple[tuple[int, str], ...] = ()
    notes: tuple[tuple[int, AudioNote], ...] = ()

    def part(self, chosen: slice) -> "Batch":
        """Some of its rows, padded as a batch of these alone would be."""
        lists = {name: getattr(self, name)[chosen] for name in ("queries", "texts", "labels", "rows")}
        return replace(self, features=self.features.part(chosen), **lists)


@dataclass(frozen=True)
class FeatureSpec:
    """What the model's encoders want: see `nota_cli.features.batch.extract`."""

    mel_bins: int
    front_end: str | None
    pad: str
    max_seconds: float
    device: torch.device | None = None
    """Where `loader` makes the features of `RowBatches` in its own process; None has the workers make them."""

    def features(self, waves: list[np.ndarray[Any, Any]]) -> Features:
        """What the encoders see of clips at 16 kHz, on `device` or else on the CPU."""
        place = self.device or "cpu"
        return extract(waves, self.mel_bins, front_end=self.front_end, pad=self.pad, device=place)


@dataclass(frozen=True)
class Decoded:
    """Rows whose audio is decoded and whose features are still to be made.

    Attributes:
        waves: float32 at 16 kHz, for each of `rows`.
        bad: rows of the group whose audio cannot be used, and why.
        notes: what is odd about the audio of others.
    """

    waves: list[np.ndarray[Any, Any]]
    rows: list[int]
    bad: tuple[tuple[int, str], ...] = ()
    notes: tuple[tuple[int, AudioNote], ...] = ()

    def part(self, chosen: slice) -> "Decoded":
        """Some of its rows."""
        return replace(self, waves=self.waves[chosen], rows=self.rows[chosen])

    def whole(self) -> "Decoded":
        """Itself.

        Raises:
            DataError: rows cannot be used; the message names file and row of each.
        """
        if self.bad:
            raise DataError("\n".join(reason for _, reason in self.bad))
        return self


def query_of(row: Row) -> Query:
    """What is asked of the clip of one annotation row."""
    return Query(row.task, row.question, row_id(row))


def in_order(count: int, size: int) -> list[list[int]]:
    """Positions 0 to `count` - 1 in groups of `size`, the last one perhaps smaller."""
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


class RowBatches(Dataset[Batch]):
    """Batches of given rows, for inference and validation; item `i` is the `i`-th group of row positions.

    Args:
        rows: annotation rows.
        groups: positions in `rows`, a batch each.
        audio_root: what the rows' paths are relative to.
        spec: what the encoders want.
        windows: for each of `rows` the part of its clip that is meant, in seconds from its start; None for the whole
            clip, cut at `spec.max_seconds`. A row may be there several times, each time with another window.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        groups: Sequence[Sequence[int]],
        audio_root: str | Path,
        spec: FeatureSpec,
        windows: Sequence[Window | None] | None = None,
    ) -> None:
        self.rows, self.groups, self.audio_root, self.spec, self.windows = rows, groups, audio_root, spec, windows

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Batch:
        return self.finish(self.decode(index).whole())

    def decode(self, index: int) -> Decoded:
        """The waveforms of the `index`-th group, and which of its rows have none."""
        waves, rows, bad, notes = [], [], [], []
        for position in self.groups[index]:
            told: list[AudioNote] = []
            try:
                waves.append(self._wave(position, told))
                rows.append(position)
                notes += [(position, note) for note in told]
            except DataError as error:
                bad.append((position, str(error)))
        return Decoded(waves, rows, tuple(bad), tuple(notes))

    def _wave(self, position: int, notes: list[AudioNote]) -> np.ndarray[Any, Any]:
        row = self.rows[position]
        window = None if self.windows is None else self.windows[position]
        part = {} if window is None else {"start": window[0], "stop": window[1]}
        paths = clip_paths(row, self.audio_root)
        return load_clip(paths, row=row.number, max_seconds=self.spec.max_seconds, notes=notes, **part)

    def ahead(self, index: int) -> Decoded | Batch:
        """What a worker makes of the `index`-th group: features, unless these are made elsewhere or no row is good."""
        decoded = self.decode(index)
        return decoded if self.spec.device is not None or not decoded.rows else self.finish(decoded)

    def finish(self, decoded: Decoded) -> Batch:
        """The group with its features, on the spec's device."""
        chosen = [self.rows[position] for position in decoded.rows]
        return Batch(
            self.spec.features(decoded.waves),
            [query_of(row) for row in chosen],
            [row.text or "" for row in chosen],
            [row.label for row in chosen],
            decoded.rows,
            decoded.bad,
            decoded.notes,
        )


class _Corpus:
    """One training source: its rows, and a random training clip of them on demand."""

    def __init__(self, source: Source, max_seconds: float) -> None:
        self.source = source
        self.max_seconds = max_seconds
        self.rows = read_annotation(source.annotation, audio_root=source.audio_root)
        lacking = [str(row.index) for row in self.rows if row.text is None]
        if lacking:
            raise DataError(f"{source.annotation}: rows {', '.join(lacking[:10])} have no text to train on")
        self.mates = _groups(self.rows, "speaker") if source.join > 1 else {}
        self.same_label = _groups(self.rows, "label") if source.mix_same_label else {}
        self.background_root = source.background_root or source.audio_root
        self.background = (
            read_annotation(source.background, audio_root=self.background_root) if source.background else []
        )
        self._cache: dict[tuple[float, *tuple[Path, ...]], np.ndarray[Any, Any]] = {}
        self._cached_bytes = 0

    def draw(self, rng: Generator, augment: Augment, strength: float = 1.0) -> tuple[np.ndarray[Any, Any], Row, str]:
        """A random clip [samples], its row and its text."""
        row = self.rows[rng.integers(len(self.rows))]
        text = str(rng.choice(row.texts)) if row.texts else row.text or ""
        if self.source.join > 1:
            wave, text = self._join(row, rng)
        else:
            wave = self._load(row, self.source.audio_root, 1.0)
        if row.label is not None and rng.random() < augment.roll:
            wave = roll(wave, rng)
        if row.label is not None and rng.random() < self.source.mix_same_label:
            others = self.same_label[row.label]
            other = self._load(others[rng.integers(len(others))], self.source.audio_root, 1.0)
            wave = mix(wave, roll(other, rng), rng.uniform(-3, 10))
        if self.source.crop_seconds is not None:
            wave = crop(wave, self.source.crop_seconds, rng)
        if self.background and rng.random() < strength * self.source.background_probability:
            sound = self.background[rng.integers(len(self.background))]
            wave = mix(wave, roll(self._load(sound, self.background_root, 1.0), rng), rng.uniform(3, 25))
        wave = augment_waveform(wave, augment, rng)
        short = SAMPLE_RATE - len(wave)
        return (np.pad(wave, (0, short)) if short > 0 else wave[: int(self.max_seconds * SAMPLE_RATE)]), row, text

    def _join(self, first: Row, rng: Generator) -> tuple[np.ndarray[Any, Any], str]:
        mates = self.mates[first.speaker or ""]  # every row has one where clips are joined
        count = int(rng.integers(1, self.source.join + 1))
        chosen = [first, *(mates[rng.integers(len(mates))] for _ in range(count - 1))]
        pieces, texts = [self._silence(rng)], list[str]()
        for row in chosen:
            wave = self._load(row, self.source.audio_root, 0.0)
            if texts and sum(map(len, pieces)) + len(wave) > self.max_seconds * SAMPLE_RATE:
                break  # the end would be cut off, and its text be asked for all the same
            pieces += [wave, self._silence(rng)]
            texts.append(row.text or "")
        return np.concatenate(pieces), " ".join(texts)

    def _silence(self, rng: Generator) -> np.ndarray[Any, Any]:
        return np.zeros(int(rng.uniform(*self.source.gap_seconds) * SAMPLE_RATE), dtype=np.float32)

    def _load(self, row: Row, root: str, min_seconds: float) -> np.ndarray[Any, Any]:
        paths = clip_paths(row, root)
        key: tuple[float, *tuple[Path, ...]] = (min_seconds, *paths)
        if key in self._cache:
            return self._cache[key]
        wave = load_clip(paths, row=row.index, max_seconds=self.max_seconds, min_seconds=min_seconds)
        if self._cached_bytes + wave.nbytes <= CACHE_BYTES:
            self._cache[key] = wave
            self._cached_bytes += wave.nbytes
        return wave


class TrainingBatches(Dataset[Batch]):
    """Random training batches; item `i` depends on `seed` and `i` alone, so a resumed run sees the same."""

    def __init__(
        self, sources: list[Source], spec: FeatureSpec, augment: Augment, batch_size: int, seed: int, ramp: int = 0
    ) -> None:
        self.corpora = [_Corpus(source, spec.max_seconds) for source in sources]
        weights = np.array([source.weight for source in sources])
        self.shares = weights / weights.sum()
        self.spec, self.augment, self.batch_size, self.seed, self.ramp = spec, augment, batch_size, seed, ramp

    @property
    def label_names(self) -> list[str]:
        """Every `label` of the sources, sorted."""
        return sorted({row.label for corpus in self.corpora for row in corpus.rows if row.label is not None})

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng([self.seed, index])
        strength = min(1.0, index / self.ramp) if self.ramp else 1.0
        augment = weaken(self.augment, strength)
        waves, rows, texts = [], [], []
        for choice in rng.choice(len(self.corpora), size=self.batch_size, p=self.shares):
            wave, row, text = self.corpora[choice].draw(rng, augment, strength)
            waves.append(wave)
            rows.append(row)
            texts.append(text)
        features = extract(waves, self.spec.mel_bins, front_end=self.spec.front_end, pad=self.spec.pad)
        if augment.mask_time or augment.mask_frequency:
            _mask(features, augment, rng)
        return Batch(features, [query_of(row) for row in rows], texts, [row.label for row in rows], [])


def loader(dataset: Dataset[Batch], order: Sequence[int], workers: int) -> Iterator[Batch]:
    """Batches in the given order, made ahead by worker processes (0: in this one).

    Workers make features on the CPU; those for another device are made here, so that no worker needs CUDA.

    Raises:
        NotaError: what stopped a worker, as the worker raised it; or that it died.
    """
    late = dataset if isinstance(dataset, RowBatches) and dataset.spec.device is not None else None
    make = dataset.__getitem__ if late is None else lambda index: late.decode(index).whole()
    for batch in made_ahead(make, order, workers):
        yield batch if late is None else late.finish(batch)


def tolerant_loader(
    dataset: RowBatches, order: Sequence[int], workers: int, ahead: int = AHEAD
) -> Stream[Decoded | Batch, None, None]:
    """As `loader`, but rows whose audio cannot be used come by name in what is yielded.

    What is yielded lacks its features (`RowBatches.finish`) where they are made on another device, or of no row.

    Args:
        dataset: the rows.
        order: which of its groups.
        workers: processes that work ahead.
        ahead: groups that each of them may be ahead.
    """
    yield from made_ahead(dataset.ahead, order, workers, ahead)


def _mask(features: Features, augment: Augment, rng: Generator) -> None:
    for row, length in zip(features.log_mel, features.log_mel_lengths.tolist(), strict=True):
        row[:, :length] = mask_spectrogram(row[:, :length].T, augment, rng).T
    if features.fbank is not None and features.fbank_lengths is not None:
        for row, length in zip(features.fbank, features.fbank_lengths.tolist(), strict=True):
            row[:length] = mask_spectrogram(row[:length], augment, rng)


def _groups(rows: list[Row], field: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        value = getattr(row, field)
        if value is None:
            raise DataError(f"row {row.index} ({row.path}) has no `{field}`, which this source's settings need")
        groups[value].append(row)
    return groups
