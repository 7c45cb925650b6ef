"""The Free Spoken Digit Dataset: single digits to train on, strings of held-out ones to test on."""

import random
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from nota_cli.data.corpora.base import Corpus, Prepared, corpus_folder, durations, spans, write_prepared
from nota_cli.errors import DataError, UsageError

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HOME = "https://github.com/Jakobovski/free-spoken-digit-dataset"


class _Digit(NamedTuple):
    path: Path
    word: str
    speaker: str
    take: int


def prepare_digits(
    fsdd_dir: Path,
    out_dir: Path,
    *,
    hold_out: Collection[int] = range(5, 10),
    dev_strings: int = 300,
    max_digits: int = 7,
    seed: int = 0,
) -> list[Prepared]:
    """Write `fsdd-train.json` and `fsdd-dev.json`; their paths are relative to `fsdd_dir`.

    The training file lists every recording outside `hold_out` once, one digit a row, with its `speaker`: joining them
    into strings is the training loader's task. The development file lists strings of 1 to `max_digits` digits of one
    speaker, joined through `expand_wav`, the speakers taking turns.

    Args:
        fsdd_dir: the corpus's `recordings` folder, files named `{digit}_{speaker}_{index}.wav`.
        out_dir: where the two files go.
        hold_out: recording indices kept for the development file.
        dev_strings: rows of the development file, at most 10,000.
        max_digits: longest string; lengths are uniform.
        seed: of the development strings.

    Raises:
        DataError: the folder is missing or holds no such recordings, a speaker has none inside or none outside
            `hold_out`, or a recording cannot be read.
        UsageError: `dev_strings` or `max_digits` out of range, or `out_dir` cannot be written to.
    """
    fsdd_dir = Path(fsdd_dir)
    if not 1 <= dev_strings <= 10_000 or max_digits < 1:
        raise UsageError(
            f"dev_strings must be 1 to 10000 (is {dev_strings}) and max_digits at least 1 (is {max_digits})"
        )
    digits = _find_digits(fsdd_dir)
    held: dict[str, list[_Digit]] = {speaker: [] for speaker in sorted({digit.speaker for digit in digits})}
    train: list[_Digit] = []
    for digit in digits:
        (held[digit.speaker] if digit.take in hold_out else train).append(digit)
    indices = f"{min(digit.take for digit in digits)} to {max(digit.take for digit in digits)}"
    for speaker, recordings in held.items():
        if not recordings or all(digit.speaker != speaker for digit in train):
            missing = "none" if not recordings else "all"
            raise DataError(
                f"{fsdd_dir}: {missing} of the recordings of speaker {speaker} are held out "
                f"(indices {spans(hold_out)}; the folder has {indices}). Choose other indices to hold out."
            )

    rng = random.Random(seed)
    speakers = list(held)
    strings = [
        rng.choices(held[speakers[row % len(speakers)]], k=rng.randint(1, max_digits)) for row in range(dev_strings)
    ]
    dev_rows = [
        {
            "path": string[0].path.name,
            "expand_wav": [digit.path.name for digit in string[1:]],
            "text": " ".join(digit.word for digit in string),
            "task": "asr",
            "testset_id": f"test{row:04d}",
            "speaker": string[0].speaker,
        }
        for row, string in enumerate(strings)
    ]
    train_rows = [
        {"path": digit.path.name, "text": digit.word, "task": "asr", "speaker": digit.speaker} for digit in train
    ]
    seconds = durations([digit.path for digit in digits])
    return [
        write_prepared(out_dir, "fsdd-train.json", train_rows, "speaker", sum(seconds[digit.path] for digit in train)),
        write_prepared(
            out_dir,
            "fsdd-dev.json",
            dev_rows,
            "speaker",
            sum(seconds[digit.path] for string in strings for digit in string),
        ),
    ]


def _find_digits(folder: Path) -> list[_Digit]:
    digits = []
    for path in sorted(corpus_folder(folder, "FSDD (Free Spoken Digit Dataset)", HOME).glob("*.wav")):
        match = re.fullmatch(r"(\d)_([^_]+)_(\d+)", path.stem)
        if match:
            digits.append(_Digit(path, DIGIT_WORDS[int(match[1])], match[2], int(match[3])))
    if not digits:
        raise DataError(
            f"{folder}: no file is named like 7_jackson_32.wav. Give the `recordings` folder of the Free Spoken Digit "
            f"Dataset, published at {HOME}"
        )
    return digits


CORPUS = Corpus("fsdd", "Free Spoken Digit Dataset", HOME, "CC BY-SA 4.0", prepare_digits)
