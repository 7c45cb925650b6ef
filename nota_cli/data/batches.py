"""Random batches for training: sources mixed by weight, clips joined, cut, mixed and changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from torch.utils.data import Dataset

from nota_cli.data.annotation import Row, clip_paths
from nota_cli.data.audio.clip import MIN_SECONDS, load_clip
from nota_cli.data.audio.shards import read_ahead
from nota_cli.data.augment import augment_waveform, crop, mask_spectrogram, mix, roll, weaken
from nota_cli.data.plan import BatchPlan, Draw
from nota_cli.data.row_batches import Batch, query_of
from nota_cli.data.row_order import RowOrder
from nota_cli.data.row_table import Groups, RowTable
from nota_cli.data.training_rows import TrainingRows
from nota_cli.errors import DataError
from nota_cli.features.batch import Features, FeatureSpec, extract
from nota_cli.features.constants import SAMPLE_RATE
from nota_cli.features.soft_targets import SoftTargets
from nota_cli.features.states import States
from nota_cli.prompts import Query
from nota_cli.recipe.training import Augment, Source

SoftTargetsOf = Callable[[Sequence[tuple[int, int]], Sequence[Query], Sequence[str]], SoftTargets]
"""What a teacher says of the answers of (source, row) clips, from what is asked of them and their texts."""
STATES_PER_SECOND = 50  # of the speech encoder
CACHE_BYTES = 512 * 2**20  # decoded clips kept by each worker, so that a small corpus is decoded once


@dataclass(frozen=True)
class TrainingBatch(Batch):
    """A batch, or a process's share of one.

    Attributes:
        names: the files of its clips, for messages.
        seconds: how long each clip is, as the encoders see it.
        spare: the batch has fewer clips than there are processes, and this one's clip is another's too: do not count
            its loss.
        teacher_features: what a teacher's encoders see of the clips, without masks, where that is not `features`.
        soft_targets: what a teacher says of the answers, where that was computed before.
    """

    names: tuple[str, ...] = ()
    seconds: tuple[float, ...] = ()
    spare: bool = False
    teacher_features: Features | None = None
    soft_targets: SoftTargets | None = None

    @property
    def audio_seconds(self) -> float:
        """Of all its clips."""
        return sum(self.seconds)

    @property
    def padded_seconds(self) -> float:
        """Of all its clips, each as long as the longest."""
        return len(self.seconds) * max(self.seconds, default=0.0)


class Corpus:
    """One training source: its rows, and a random training clip of them on demand.

    Args:
        source: what the recipe says of it.
        max_seconds: longer clips are cut.
        seed: of the order that rows are read in, where `source.shuffle_buffer` asks for one.
    """

    def __init__(self, source: Source, max_seconds: float, seed: tuple[int, ...]) -> None:
        self.source = source
        self.max_seconds = max_seconds
        self._training_rows = TrainingRows(source.annotation, source.audio_root)
        self.rows = self._training_rows.table
        lacking = [str(row) for row in self.rows.lacking("text")[:10].tolist()]
        if lacking:
            raise DataError(f"{source.annotation}: rows {', '.join(lacking)} have no text to train on")
        self.mates = _groups(self.rows, "speaker") if source.join > 1 else None
        self.same_label = _groups(self.rows, "label") if source.mix_same_label else None
        self.background_root = source.background_root or source.audio_root
        self.background = TrainingRows(source.background, self.background_root).table if source.background else None
        self.order = RowOrder(self.rows, source.shuffle_buffer, seed) if source.shuffle_buffer else None
        self.durations: np.ndarray[Any, Any] = np.zeros(0)
        self._cache: dict[tuple[float, *tuple[Path, ...]], np.ndarray[Any, Any]] = {}
        self._cached_bytes = 0

    def measure(self) -> None:
        """Read how long each row's clip is from the headers of its files; what they do not say counts as longest."""
        seconds = self._training_rows.seconds()
        self.durations = np.where(np.isnan(seconds), self.max_seconds, seconds)

    @property
    def in_order(self) -> bool:
        """Whether rows are read one after another instead of drawn."""
        return self.order is not None

    def pick(self, rng: Generator, number: int) -> tuple[int, ...]:
        """A random row, and those of its speaker that are joined to it; or the `number`-th that is read in order."""
        if self.order is not None:
            return (self.order[number],)
        row = int(rng.integers(len(self.rows)))
        if self.mates is None:
            return (row,)
        mates = self.mates[self.rows[row].speaker or ""]  # every row has one where clips are joined
        count = int(rng.integers(1, self.source.join + 1))
        return (row, *(int(mates[rng.integers(len(mates))]) for _ in range(count - 1)))

    def seconds(self, rows: tuple[int, ...]) -> float:
        """About how long the clip of these rows is; `measure` first."""
        gap = sum(self.source.gap_seconds) / 2 * (len(rows) + 1) if self.source.join > 1 else 0.0
        longest = min(self.max_seconds, self.source.crop_seconds or self.max_seconds)
        return min(max(sum(float(self.durations[row]) for row in rows) + gap, MIN_SECONDS), longest)

    def text(self, rows: tuple[int, ...], rng: Generator) -> str:
        """What is said in the clip of a row: one of its wordings."""
        row = self.rows[rows[0]]
        return str(rng.choice(row.texts)) if row.texts else row.text or ""

    def render(
        self, rows: tuple[int, ...], rng: Generator, augment: Augment, strength: float = 1.0
    ) -> tuple[np.ndarray[Any, Any], str]:
        """The clip of these rows [samples], randomly changed, and its text."""
        row = self.rows[rows[0]]
        text = self.text(rows, rng)
        if self.source.join > 1:
            wave, text = self._join([self.rows[each] for each in rows], rng)
        else:
            wave = self._load(row, self.source.audio_root, MIN_SECONDS)
        if row.label is not None and rng.random() < augment.roll:
            wave = roll(wave, rng)
        if row.label is not None and rng.random() < self.source.mix_same_label and self.same_label is not None:
            others = self.same_label[row.label]
            other = self.rows[int(others[rng.integers(len(others))])]
            wave = mix(wave, roll(self._load(other, self.source.audio_root, MIN_SECONDS), rng), rng.uniform(-3, 10))
        if self.source.crop_seconds is not None:
            wave = crop(wave, self.source.crop_seconds, rng)
        if self.background and rng.random() < strength * self.source.background_probability:
            sound = self.background[int(rng.integers(len(self.background)))]
            wave = mix(wave, roll(self._load(sound, self.background_root, MIN_SECONDS), rng), rng.uniform(3, 25))
        wave = augment_waveform(wave, augment, rng)
        short = SAMPLE_RATE - len(wave)
        return (np.pad(wave, (0, short)) if short > 0 else wave[: int(self.max_seconds * SAMPLE_RATE)]), text

    def _join(self, chosen: list[Row], rng: Generator) -> tuple[np.ndarray[Any, Any], str]:
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
        if self.order is not None:
            for path in paths:
                read_ahead(path)
        wave = load_clip(paths, row=row.index, max_seconds=self.max_seconds, min_seconds=min_seconds)
        if self._cached_bytes + wave.nbytes <= CACHE_BYTES:
            self._cache[key] = wave
            self._cached_bytes += wave.nbytes
        return wave


class TrainingBatches(Dataset[Batch]):
    """Random training batches; item `i` depends on `seed` and `i` alone, so a resumed run sees the same.

    Args:
        sources: what the clips are drawn from.
        spec: what makes the features.
        augment: random changes to the clips.
        batch_size: clips of a batch.
        seed: of everything that is drawn.
        ramp: batches over which what hides the sound grows to full strength.
        buckets: batches that are drawn together and sorted by length (`BatchPlan`).
        batch_seconds: with `buckets`, how much padded audio a batch has, instead of `batch_size`.
        share: number of this process and of all processes; each gets its part of every batch.
        states: what gives the encoders' states of the clips of (source, row) pairs; without it, features are made.
        teacher: what makes the features of a teacher that runs with each batch.
        soft_targets: what gives a teacher's answers where it does not.
    """

    def __init__(
        self,
        sources: list[Source],
        spec: FeatureSpec,
        augment: Augment,
        batch_size: int,
        seed: int,
        ramp: int = 0,
        *,
        buckets: int = 0,
        batch_seconds: float | None = None,
        share: tuple[int, int] = (0, 1),
        states: Callable[[Sequence[tuple[int, int]]], States] | None = None,
        teacher: FeatureSpec | None = None,
        soft_targets: SoftTargetsOf | None = None,
    ) -> None:
        self.corpora = [Corpus(source, spec.max_seconds, (seed, number)) for number, source in enumerate(sources)]
        if buckets or batch_seconds:
            for corpus in self.corpora:
                corpus.measure()
        weights = [source.weight for source in sources]
        self.plan = BatchPlan(self.corpora, weights, batch_size, seed, buckets=buckets, batch_seconds=batch_seconds)
        self.spec, self.augment, self.seed, self.ramp = spec, augment, seed, ramp
        self.share, self.states = share, states
        self.teacher, self.soft_targets = teacher, soft_targets

    @property
    def label_names(self) -> list[str]:
        """Every `label` of the sources, sorted."""
        return sorted({label for corpus in self.corpora for label in corpus.rows.values("label")})

    def answers(self, index: int) -> list[tuple[tuple[int, int], Query, str]]:
        """Of a batch's clips, whosever share they are, source and row, what is asked, and the text."""
        asked = []
        for draw in self.plan[index]:
            corpus, rng = self.corpora[draw.source], np.random.default_rng([self.seed, *draw.number])
            asked.append(
                ((draw.source, draw.rows[0]), query_of(corpus.rows[draw.rows[0]]), corpus.text(draw.rows, rng))
            )
        return asked

    def __getitem__(self, index: int) -> TrainingBatch:
        strength = min(1.0, index / self.ramp) if self.ramp else 1.0
        augment = weaken(self.augment, strength)
        process, processes = self.share
        planned = self.plan[index]
        draws = planned[process::processes] or planned[:1]
        numbers = [(draw.source, draw.rows[0]) for draw in draws]
        rngs = [np.random.default_rng([self.seed, *draw.number]) for draw in draws]
        features: Features | States
        teacher_features: Features | None = None
        if self.states is not None:
            texts = [self.corpora[d.source].text(d.rows, rng) for d, rng in zip(draws, rngs, strict=True)]
            features = self.states(numbers)
            seconds = (features.speech_mask.sum(-1) / STATES_PER_SECOND).tolist()
        else:
            clips = [
                self.corpora[draw.source].render(draw.rows, rng, augment, strength)
                for draw, rng in zip(draws, rngs, strict=True)
            ]
            texts = [text for _, text in clips]
            waves = [wave for wave, _ in clips]
            seconds = [len(wave) / SAMPLE_RATE for wave in waves]
            features = extract(waves, self.spec.mel_bins, front_end=self.spec.front_end, pad=self.spec.pad)
            masked = bool(augment.mask_time or augment.mask_frequency)
            if self.teacher is not None and (masked or self.teacher != self.spec):
                teacher_features = self.teacher.features(waves)
            if masked:
                _mask(features, augment, rngs)
        rows = [self.corpora[draw.source].rows[draw.rows[0]] for draw in draws]
        queries = [query_of(row) for row in rows]
        return TrainingBatch(
            features,
            queries,
            texts,
            [row.label for row in rows],
            [],
            names=tuple(name for draw in draws for name in self._names(draw)),
            seconds=tuple(seconds),
            spare=process >= len(planned),
            teacher_features=teacher_features,
            soft_targets=None if self.soft_targets is None else self.soft_targets(numbers, queries, texts),
        )

    def _names(self, draw: Draw) -> list[str]:
        corpus = self.corpora[draw.source]
        return [str(path) for row in draw.rows for path in clip_paths(corpus.rows[row], corpus.source.audio_root)]


def _mask(features: Features, augment: Augment, rngs: list[Generator]) -> None:
    for row, length, rng in zip(features.log_mel, features.log_mel_lengths.tolist(), rngs, strict=True):
        row[:, :length] = mask_spectrogram(row[:, :length].T, augment, rng).T
    if features.fbank is not None and features.fbank_lengths is not None:
        for row, length, rng in zip(features.fbank, features.fbank_lengths.tolist(), rngs, strict=True):
            row[:length] = mask_spectrogram(row[:length], augment, rng)


def _groups(rows: RowTable, field: str) -> Groups:
    """Numbers of the rows by what they have in a field."""
    lacking = rows.lacking(field)
    if len(lacking):
        row = rows[int(lacking[0])]
        raise DataError(f"row {row.index} ({row.path}) has no `{field}`, which this source's settings need")
    return rows.groups(field)
