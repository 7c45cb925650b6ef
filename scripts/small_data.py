"""Annotation files that recipe `small` trains and is measured on, from recordings on disk.

    python scripts/small_data.py --data data

DATA holds `real` (speechocean762, libri_train_clean, lj_own_voice, instruments, cdda and their annotation files),
`esc10`, `fsdd`, and, if wanted, `synthetic`, which scripts/synthesize_speech.py writes. The files go to DATA/small;
paths in them are relative to DATA. Held out of training: 20 speakers of speechocean762, that of lj_own_voice, a fifth
of each class of instruments and effects, fold 4 of ESC-10, takes 5 to
9 of FSDD. Questions (task QA) are made from labels and texts by templates.
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from nota_cli.data.corpora.base import write_annotation
from nota_cli.data.corpora.esc10 import prepare_esc10
from nota_cli.data.corpora.fsdd import DIGIT_WORDS, prepare_digits

Row = dict[str, Any]
HELD_OUT_SPEAKERS = 20
THINGS = {
    "baby-cry": "a baby",
    "chainsaw": "a chainsaw",
    "clock-tick": "a clock",
    "dog-bark": "a dog",
    "fire-crackling": "a fire",
    "helicopter": "a helicopter",
    "person-sneeze": "a sneeze",
    "rain": "rain",
    "rooster": "a rooster",
    "sea-waves": "waves",
    "Acoustic_guitar": "a guitar",
    "Bass_drum": "a bass drum",
    "Cello": "a cello",
    "Clarinet": "a clarinet",
    "Double_bass": "a double bass",
    "Flute": "a flute",
    "Hi_hat": "a hi-hat",
    "Saxophone": "a saxophone",
    "Snare_drum": "a snare drum",
    "Violin_or_fiddle": "a violin",
}
NUMBERS = (*DIGIT_WORDS, *["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen"])


def read(file: Path, folder: str) -> list[Row]:
    """Rows of an annotation file; their paths, relative to `folder`, are made relative to what holds `folder`."""
    rows = json.loads(file.read_text(encoding="utf-8"))["annotation"]
    for row in rows:
        row["path"] = f"{folder}/{row['path']}"
        if "expand_wav" in row:
            row["expand_wav"] = [f"{folder}/{name}" for name in row["expand_wav"]]
    return rows


def held_out(rows: list[Row], key: str, chosen: set[str]) -> tuple[list[Row], list[Row]]:
    """Rows whose `key` is not among `chosen`, and those whose is."""
    return [row for row in rows if row[key] not in chosen], [row for row in rows if row[key] in chosen]


def fifth(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Every fifth row of each class goes to the second list."""
    train, dev, seen = [], [], defaultdict(int)
    for row in rows:
        (dev if seen[row["label"]] % 5 == 4 else train).append(row)
        seen[row["label"]] += 1
    return train, dev


def question(row: Row, text: str, answer: str) -> Row:
    """A row that asks something of the clip of `row`."""
    asked = {key: row[key] for key in ("path", "expand_wav", "speaker", "label") if key in row}
    asked.pop("label", None)  # a label is what captions are judged by
    return {**asked, "task": "QA", "Q": text, "text": answer}


def questions(speech: list[Row], sounds: list[Row], rng: random.Random) -> list[Row]:
    """Two questions a sound, one a speech clip."""
    asked = []
    for row in sounds:
        thing = THINGS.get(row["label"])
        if thing is None:
            asked.append(question(row, "Is somebody speaking?", "no"))
            continue
        other = rng.choice([name for name in THINGS.values() if name != thing])
        present = rng.random() < 0.5
        verb = "Are there" if (thing if present else other) == "waves" else "Is there"
        asked.append(question(row, f"{verb} {thing if present else other}?", "yes" if present else "no"))
        asked.append(question(row, "What makes the sound?", thing))
        if rng.random() < 0.3:
            asked.append(question(row, "Is somebody speaking?", "no"))
    for row in speech:
        count = len(row["text"].split())
        kind = rng.random()
        if kind < 0.6 and count < len(NUMBERS):
            asked.append(question(row, "How many words were said?", NUMBERS[count]))
        elif kind < 0.8:
            asked.append(question(row, "Is somebody speaking?", "yes"))
        else:
            asked.append(question(row, f"Is there {rng.choice(sorted(set(THINGS.values()) - {'waves'}))}?", "no"))
    return asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    data = arguments.data
    rng, out = random.Random(0), data / "small"
    prepare_digits(data / "fsdd", out)
    prepare_esc10(data / "esc10", out)

    l2 = read(data / "real/speechocean762.json", "real")
    speakers = sorted({row["speaker"] for row in l2})
    chosen = set(speakers[:: len(speakers) // HELD_OUT_SPEAKERS][:HELD_OUT_SPEAKERS])
    l2_train, l2_dev = held_out(l2, "speaker", chosen)
    sounds_train, sounds_dev = [], []
    for name in ("instruments", "cdda"):
        train, dev = fifth(read(data / f"real/{name}.json", "real"))
        sounds_train += [row for row in train if row["label"] != "speech"]
        sounds_dev += [row for row in dev if row["label"] != "speech"]
    esc_train = read(out / "esc10-train.json", "esc10")
    esc_dev = read(out / "esc10-dev.json", "esc10")
    books = read(data / "real/libri_train_clean.json", "real")
    unknown_reader = read(data / "real/lj_own_voice.json", "real")
    files = {
        "l2-train": l2_train,
        "l2-dev": l2_dev,
        "books-train": books,
        "reader-dev": unknown_reader,
        "digits-train": read(out / "fsdd-train.json", "fsdd"),
        "digits-dev": read(out / "fsdd-dev.json", "fsdd"),
        "esc10-train": esc_train,
        "esc10-dev": esc_dev,
        "sounds-train": sounds_train,
        "sounds-dev": sounds_dev,
        "qa-train": questions(rng.sample(l2_train, 600), esc_train + sounds_train, rng),
        "qa-dev": questions(rng.sample(l2_dev, 60), esc_dev + sounds_dev, rng),
    }
    if (data / "synthetic/synthetic.json").is_file():
        files["synthetic-train"] = read(data / "synthetic/synthetic.json", "synthetic")
    for name, rows in files.items():
        if name.endswith("-dev"):
            for number, row in enumerate(rows):
                row["testset_id"] = f"test{number:04d}"
        write_annotation(out / f"{name}.json", rows)
        print(f"{out / name}.json: {len(rows)} rows")
    for name in ("fsdd-train", "fsdd-dev"):
        (out / f"{name}.json").unlink()


if __name__ == "__main__":
    main()
