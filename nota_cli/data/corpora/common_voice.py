"""Common Voice: volunteers read sentences; one table a split, clips as MP3."""

from collections.abc import Iterator
from pathlib import Path

from nota_cli.data.corpora.prepare import Item, Reader, read_table


def read(folder: Path, split: str) -> Iterator[Item]:
    """`SPLIT.tsv` with `client_id`, `path` and `sentence`; the clips are in `clips/`."""
    for row in read_table(folder / f"{split}.tsv", "\t"):
        name = row["path"] if row["path"].endswith(".mp3") else f"{row['path']}.mp3"
        yield {"path": f"clips/{name}", "text": row["sentence"], "task": "asr", "speaker": row["client_id"]}


def genders(folder: Path, split: str) -> dict[str, str]:
    """What the speakers say of themselves: `female`, `male`, since 2024 `female_feminine`, `male_masculine`."""
    stated = {row["client_id"]: row.get("gender") or "" for row in read_table(folder / f"{split}.tsv", "\t")}
    return {speaker: own.split("_")[0] for speaker, own in stated.items() if own.split("_")[0] in ("male", "female")}


READER = Reader(
    "common-voice",
    "Common Voice (one language's folder)",
    "https://commonvoice.mozilla.org/datasets",
    "CC0; do not try to find out who the speakers are",
    ("train", "dev", "test", "validated"),
    read,
    ("{split}.tsv",),
    genders,
)
