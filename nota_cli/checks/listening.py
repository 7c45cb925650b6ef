"""Does a model listen? Its figures on a test set beside those on silence, on other clips, on the first second alone."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from nota_cli.data.annotation import Row, clip_paths, row_id
from nota_cli.data.audio.clip import load_clip
from nota_cli.errors import DataError
from nota_cli.features.constants import SAMPLE_RATE
from nota_cli.inference.predict import predict
from nota_cli.models.families.base import AudioModel
from nota_cli.score.report import score_clips
from nota_cli.submission import write_submission

VARIANTS = {
    "as it is": "the test set",
    "silence": "every clip as long as it was, without a sound",
    "other clips": "every text against the audio of another row of its task",
    "first second": "nothing but the first second of each clip",
}
HIGHER_IS_BETTER = {"wer": False}
"""A metric's direction, where more is not better."""
METRICS = {"asr": "wer", "aac": "cider_d_x100", "qa": "exact_match"}
"""What is compared, by family of tasks: names in a score report."""


def metric_of(task: str, rows: Sequence[Row]) -> str:
    """What is compared on these rows: accuracy where every question has choices, else the metric of the task."""
    return "accuracy" if task == "qa" and all(row.choices for row in rows) else METRICS[task]


@dataclass(frozen=True)
class Heard:
    """One variant of the test set.

    Attributes:
        name: one of `VARIANTS`.
        score: the task's metric.
        same_texts: share of rows whose text is the one of the test set as it is.
    """

    name: str
    score: float
    same_texts: float


def listening(
    model: AudioModel,
    rows: Sequence[Row],
    audio_root: Path,
    annotation: Path,
    task: str,
    *,
    seed: int = 0,
    on_rows: Callable[[int], None] = lambda count: None,
) -> list[Heard]:
    """Run a test set as it is and without what is to be heard.

    Args:
        model: in evaluation mode.
        rows: of one family of tasks, all with references.
        audio_root: what their paths are relative to.
        annotation: the file that they are from; a report is made against its rows.
        task: the family: `asr`, `aac` or `qa`.
        seed: of the order in which clips change places.
        on_rows: told how many more rows are answered.

    Returns:
        The variants in the order of `VARIANTS`.

    Raises:
        DataError: fewer than two rows.
    """
    if len(rows) < 2:
        raise DataError(f"{annotation}: two rows at least are needed to exchange their clips")
    results: list[Heard] = []
    first: list[str] = []
    with TemporaryDirectory(prefix="nota-listening-") as name:
        folder = Path(name)
        for variant, (changed, root) in _variants(rows, audio_root, folder, seed).items():
            texts = predict(model, changed, root, workers=0, on_batch=on_rows)
            csv = folder / "texts.csv"
            write_submission(csv, ((row_id(row), text) for row, text in zip(rows, texts, strict=True)))
            score = float(score_clips(csv, annotation, task).report[metric_of(task, rows)])
            first = first or texts
            same = sum(map(str.__eq__, first, texts)) / len(texts)
            results.append(Heard(variant, score, same))
    return results


def verdict(results: Sequence[Heard], task: str) -> str:
    """What the figures say, in a sentence."""
    own, silent, others = (next(each for each in results if each.name == name) for name in list(VARIANTS)[:3])
    if min(silent.same_texts, others.same_texts) > 0.9:
        return "It does not listen: its texts are the same whatever is played to it."
    worse = min(_loss(own.score, each.score, task) for each in (silent, others))
    if worse <= 0:
        return "Its score does not fall without the audio: what it says does not come from listening."
    return "It listens: without the audio its score falls."


def _loss(own: float, other: float, task: str) -> float:
    """How much worse the other score is."""
    return own - other if HIGHER_IS_BETTER.get(METRICS[task], True) else other - own


def _variants(rows: Sequence[Row], audio_root: Path, folder: Path, seed: int) -> dict[str, tuple[list[Row], Path]]:
    silent, beginnings = [], []
    for number, row in enumerate(rows):
        wave = load_clip(clip_paths(row, audio_root), row=row.number, notes=[])
        for name, samples in (("silent", np.zeros_like(wave)), ("first", wave[:SAMPLE_RATE])):
            soundfile.write(folder / f"{number}-{name}.wav", samples, SAMPLE_RATE, subtype="FLOAT")
        silent.append(replace(row, path=f"{number}-silent.wav", expand=()))
        beginnings.append(replace(row, path=f"{number}-first.wav", expand=()))
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    next_row = {row: order[(order.index(row) + 1) % len(order)] for row in order}  # nobody keeps their own
    others = [
        replace(row, path=rows[next_row[number]].path, expand=rows[next_row[number]].expand)
        for number, row in enumerate(rows)
    ]
    return {
        "as it is": (list(rows), audio_root),
        "silence": (silent, folder),
        "other clips": (others, audio_root),
        "first second": (beginnings, folder),
    }
