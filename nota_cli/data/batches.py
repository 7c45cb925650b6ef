"""Random batches for training: sources mixed by weight, clips joined, cut, mixed and changed."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from torch.utils.data import Dataset

from nota_cli.data.annotation import Row, clip_paths, read_annotation
from nota_cli.data.audio.clip import load_clip
from nota_cli.data.augment import augment_waveform, crop, mask_spectrogram, mix, roll, weaken
from nota_cli.data.row_batches import Batch, query_of
from nota_cli.errors import DataError
from nota_cli.features.batch import Features, FeatureSpec, extract
from nota_cli.features.constants import SAMPLE_RATE
from nota_cli.recipe.training import Augment, Source

Window = tuple[float, float]
CACHE_BYTES = 512 * 2**20  # decoded clips kept by each worker, so that a small corpus is decoded once


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
