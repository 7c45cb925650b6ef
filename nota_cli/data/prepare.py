"""Corpora on disk to annotation files in the organisers' layout: spoken digits (FSDD), everyday sounds (ESC-10)."""

import csv
import json
import random
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import soundfile

from nota_cli.errors import DataError, UsageError, listing
from nota_cli.files import write_text
from nota_cli.parsing import decode, parse_json

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FSDD_HOME = "https://github.com/Jakobovski/free-spoken-digit-dataset"
ESC10_HOME = "https://github.com/karolpiczak/ESC-10"

# Two wordings of every class begin with "a" and two with "the", and the next word already tells the class: a decoder
# in doubt then weighs classes against each other, never a class against a wording. No wording counts or places
# anything that one clip of the class has and another has not.
ESC10_CAPTIONS: dict[str, tuple[str, ...]] = {
    "baby-cry": (
        "a baby is crying",
        "a baby cries loudly",
        "the crying of a baby can be heard",
        "the baby cries in a room",
    ),
    "chainsaw": (
        "a chainsaw is running",
        "a chainsaw cuts wood",
        "the buzz of a chainsaw can be heard",
        "the chainsaw cuts through wood",
    ),
    "clock-tick": (
        "a clock is ticking",
        "a clock ticks steadily",
        "the ticking of a clock can be heard",
        "the clock ticks on a wall",
    ),
    "dog-bark": (
        "a dog is barking",
        "a dog barks loudly",
        "the barking of a dog can be heard",
        "the dog barks outside",
    ),
    "fire-crackling": (
        "a fire is crackling",
        "a fire burns and crackles",
        "the crackling of a fire can be heard",
        "the fire crackles and burns",
    ),
    "helicopter": (
        "a helicopter is flying",
        "a helicopter flies overhead",
        "the rotor of a helicopter can be heard",
        "the helicopter flies through the air",
    ),
    "person-sneeze": (
        "a person is sneezing",
        "a person sneezes loudly",
        "the sneezing of a person can be heard",
        "the person sneezes in a room",
    ),
    "rain": (
        "a steady rain is falling",
        "a steady rain pours down",
        "the patter of rain can be heard",
        "the rain falls outside",
    ),
    "rooster": (
        "a rooster is crowing",
        "a rooster crows loudly",
        "the crowing of a rooster can be heard",
        "the rooster crows on a farm",
    ),
    "sea-waves": (
        "a wave is breaking on the shore",
        "a wave rolls up the beach",
        "the crash of waves can be heard",
        "the waves roll in on the beach",
    ),
}

_KEY_WORDS = {
    "baby-cry": "baby babies cry cries crying",
    "chainsaw": "chainsaw chainsaws",
    "clock-tick": "clock clocks tick ticks ticking",
    "dog-bark": "dog dogs bark barks barking",
    "fire-crackling": "fire fires crackle crackles crackling",
    "helicopter": "helicopter helicopters",
    "person-sneeze": "sneeze sneezes sneezing",
    "rain": "rain rains raining",
    "rooster": "rooster roosters crow crows crowing",
    "sea-waves": "wave waves sea",
}
_LABEL_OF_WORD = {word: label for label, words in _KEY_WORDS.items() for word in words.split()}

Row = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """One annotation file that was written.

    Attributes:
        path: the file.
        rows: how many clips it lists.
        groups: the speakers (digits) or classes (sounds) in it.
        seconds: audio in all its rows, without the silence between joined files.
    """

    path: Path
    rows: int
    groups: tuple[str, ...]
    seconds: float


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
                f"(indices {_spans(hold_out)}; the folder has {indices}). Choose other indices to hold out."
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
    seconds = _seconds([digit.path for digit in digits])
    return [
        _write(out_dir, "fsdd-train.json", train_rows, "speaker", sum(seconds[digit.path] for digit in train)),
        _write(
            out_dir,
            "fsdd-dev.json",
            dev_rows,
            "speaker",
            sum(seconds[digit.path] for string in strings for digit in string),
        ),
    ]


def prepare_esc10(esc10_dir: Path, out_dir: Path, *, hold_out_fold: int = 4) -> list[Prepared]:
    """Write `esc10-train.json` and `esc10-dev.json`; their paths are relative to `esc10_dir`.

    Each row has the `label` of its clip and, as `text`, one of the label's wordings in `ESC10_CAPTIONS`, taken in turn
    over the label's clips in the order of their names; training rows list all wordings as `texts` too.

    Args:
        esc10_dir: one folder a class, named `dog-bark` or as published, `001 - Dog bark`; a file's name begins with
            its fold and a hyphen.
        out_dir: where the two files go.
        hold_out_fold: the fold that becomes the development file; all others train.

    Raises:
        DataError: the folder is missing, a class or one of the two sides has no clips, or a clip cannot be read.
        UsageError: `out_dir` cannot be written to.
    """
    esc10_dir = Path(esc10_dir)
    clips = _find_clips(esc10_dir)
    sides: dict[bool, list[tuple[Path, Row]]] = {True: [], False: []}
    folds = set()
    for label, paths in clips.items():
        wordings = ESC10_CAPTIONS[label]
        for turn, path in enumerate(paths):
            fold = int(path.name.split("-")[0])
            folds.add(fold)
            row: Row = {
                "path": path.relative_to(esc10_dir).as_posix(),
                "text": wordings[turn % len(wordings)],
                "task": "audiocaption_v2",
                "label": label,
            }
            sides[fold == hold_out_fold].append((path, row))
    if not (sides[True] and sides[False]):
        raise DataError(
            f"{esc10_dir}: holding out fold {hold_out_fold} leaves one side empty; "
            f"the folder has folds {_spans(folds)}."
        )
    for side in sides.values():
        side.sort(key=lambda clip: (clip[0].name, clip[0]))  # by name, so that the first rows show several classes
    for _, row in sides[False]:
        row["texts"] = list(ESC10_CAPTIONS[row["label"]])  # training draws one each time it shows the clip
    for number, (_, row) in enumerate(sides[True]):
        row["testset_id"] = f"test{number:04d}"
    seconds = _seconds([path for paths in clips.values() for path in paths])
    return [
        _write(out_dir, name, [row for _, row in side], "label", sum(seconds[path] for path, _ in side))
        for name, side in (("esc10-train.json", sides[False]), ("esc10-dev.json", sides[True]))
    ]


def caption_label(text: str) -> str | None:
    """The ESC-10 class that a caption names, or None if it names none, or more than one."""
    labels = {_LABEL_OF_WORD[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _LABEL_OF_WORD}
    return labels.pop() if len(labels) == 1 else None


def caption_accuracy(captions: Sequence[str], labels: Sequence[str]) -> float:
    """Share of the captions, in [0, 1], that name the sound of their clip and no other.

    Raises:
        DataError: the two differ in length or are empty.
    """
    if len(captions) != len(labels) or not labels:
        raise DataError(f"{len(captions)} captions for {len(labels)} labels; give one caption for each of the labels")
    return sum(caption_label(text) == label for text, label in zip(captions, labels, strict=True)) / len(labels)


def caption_accuracy_of_csv(submission: Path, annotation: Path) -> float:
    """`caption_accuracy` of a submission (columns `testset_id`, `text`) against the rows of an annotation file.

    A row's class is its `label`; without one, the class that its reference text names.

    Raises:
        DataError: a file cannot be read, an id has no caption, or a row has no class.
    """
    captions = _read_submission(Path(submission))
    try:
        rows = parse_json(decode(Path(annotation).read_bytes()))["annotation"]
        labels = {row["testset_id"]: row.get("label") or caption_label(row["text"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{annotation}: cannot read `testset_id` and `label` or `text` of every row ({error!r}). "
            "Give the annotation file that the captions were made for."
        ) from error
    problems = [f"{key}: names no single ESC-10 class" for key, label in labels.items() if label is None]
    problems += [f"{key}: no caption in {submission}" for key in labels if key not in captions]
    if problems:
        raise DataError(f"{annotation}: {len(problems)} rows cannot be scored\n{listing(problems)}")
    return caption_accuracy([captions[key] for key in labels], [label or "" for label in labels.values()])


def write_annotation(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as `{"annotation": [...]}`, one row a line, whole or not at all."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    write_text(path, f'{{"annotation": [\n{lines}\n]}}\n')


def _find_digits(folder: Path) -> list[_Digit]:
    found = []
    for path in sorted(_folder(folder, "FSDD (Free Spoken Digit Dataset)", FSDD_HOME).glob("*.wav")):
        match = re.fullmatch(r"(\d)_([^_]+)_(\d+)", path.stem)
        if match:
            found.append(_Digit(path, DIGIT_WORDS[int(match[1])], match[2], int(match[3])))
    if not found:
        raise DataError(
            f"{folder}: no file is named like 7_jackson_32.wav. Give the `recordings` folder of the Free Spoken Digit "
            f"Dataset, published at {FSDD_HOME}"
        )
    return found


def _find_clips(folder: Path) -> dict[str, list[Path]]:
    clips: dict[str, list[Path]] = defaultdict(list)
    for child in sorted(_folder(folder, "ESC-10", ESC10_HOME).iterdir()):
        label = re.sub(r"^\d+ - ", "", child.name).lower().replace(" ", "-")
        if child.is_dir() and label in ESC10_CAPTIONS:
            audio = (path for path in child.iterdir() if path.suffix.lower() in {".ogg", ".wav", ".flac"})
            clips[label] += sorted(path for path in audio if re.match(r"\d-", path.name))
    missing = [label for label in ESC10_CAPTIONS if not clips[label]]
    if missing:
        raise DataError(
            f"{folder}: no clips for {', '.join(missing)}. ESC-10 has one folder a class, with files named like "
            f"1-30226-A.ogg (fold first); it is published at {ESC10_HOME}"
        )
    return clips


def _folder(folder: Path, corpus: str, home: str) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give the folder of {corpus}, published at {home}")
    return folder


def _seconds(paths: Iterable[Path]) -> dict[Path, float]:
    seconds, problems = {}, []
    for path in paths:
        try:
            info = soundfile.info(str(path))
        except soundfile.LibsndfileError as error:
            problems.append(f"{path}: {error.error_string}")
            continue
        if info.frames <= 0:
            problems.append(f"{path}: no samples")
        seconds[path] = info.frames / info.samplerate
    if problems:
        raise DataError(
            f"{len(problems)} recordings cannot be read; fetch them again or take them out\n{listing(problems)}"
        )
    return seconds


def _write(out_dir: Path, name: str, rows: list[Row], group: str, seconds: float) -> Prepared:
    path = Path(out_dir) / name
    write_annotation(path, rows)
    return Prepared(path, len(rows), tuple(sorted({row[group] for row in rows})), seconds)


def _read_submission(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            if not {"testset_id", "text"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path}: needs the columns testset_id and text, has {reader.fieldnames}")
            return {row["testset_id"]: row["text"] or "" for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV file ({error})") from error


def _spans(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers))
