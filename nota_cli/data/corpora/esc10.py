"""ESC-10: everyday sounds of ten classes, a caption each, judged by the class that a caption names."""

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from nota_cli.data.corpora.base import Corpus, Prepared, Row, corpus_folder, durations, spans, write_prepared
from nota_cli.errors import DataError, listing
from nota_cli.parsing import decode, parse_json

HOME = "https://github.com/karolpiczak/ESC-10"

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
            f"{esc10_dir}: holding out fold {hold_out_fold} leaves one side empty; the folder has folds {spans(folds)}."
        )
    for side in sides.values():
        side.sort(key=lambda clip: (clip[0].name, clip[0]))  # by name, so that the first rows show several classes
    for _, row in sides[False]:
        row["texts"] = list(ESC10_CAPTIONS[row["label"]])  # training draws one each time it shows the clip
    for number, (_, row) in enumerate(sides[True]):
        row["testset_id"] = f"test{number:04d}"
    seconds = durations([path for paths in clips.values() for path in paths])
    return [
        write_prepared(out_dir, name, [row for _, row in side], "label", sum(seconds[path] for path, _ in side))
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


def _find_clips(folder: Path) -> dict[str, list[Path]]:
    clips: dict[str, list[Path]] = defaultdict(list)
    for child in sorted(corpus_folder(folder, "ESC-10", HOME).iterdir()):
        label = re.sub(r"^\d+ - ", "", child.name).lower().replace(" ", "-")
        if child.is_dir() and label in ESC10_CAPTIONS:
            audio = (path for path in child.iterdir() if path.suffix.lower() in {".ogg", ".wav", ".flac"})
            clips[label] += sorted(path for path in audio if re.match(r"\d-", path.name))
    missing = [label for label in ESC10_CAPTIONS if not clips[label]]
    if missing:
        raise DataError(
            f"{folder}: no clips for {', '.join(missing)}. ESC-10 has one folder a class, with files named like "
            f"1-30226-A.ogg (fold first); it is published at {HOME}"
        )
    return clips


def _read_submission(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            if not {"testset_id", "text"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path}: needs the columns testset_id and text, has {reader.fieldnames}")
            return {row["testset_id"]: row["text"] or "" for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV file ({error})") from error


CORPUS = Corpus(
    "esc10",
    "ESC-10",
    HOME,
    "CC BY 3.0",
    prepare_esc10,
    labels=frozenset(ESC10_CAPTIONS),
    label_of=caption_label,
    metric="right_captions",
)
