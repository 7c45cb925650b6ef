"""Common Voice: volunteers read sentences; one table a split, clips as MP3."""

from collections.abc import Iterator
from pathlib import Path

from nota_cli.data.corpora.reader import Item, Reader, read_table


def read(folder: Path, split: str) -> Iterator[Item]:
    """`SPLIT.tsv` with `client_id`, `path` and `sentence`; the clips are in `clips/`."""
    for row in read_table(folder / f"{split}.tsv", "\t"):
        name = row["path"] if row["path"].endswith(".mp3") else f"{row['path']}.mp3"
        yield {"path": f"clips/{name}", "text": row["sentence"], "task": "asr", "speaker": row["client_id"]}


READER = Reader(
    "common-voice",
    "Common Voice (one language's folder)",
    "https://commonvoice.mozilla.org/datasets",
    "CC0; do not try to find out who the speakers are",
    ("train", "dev", "test", "validated"),
    read,
    ("{split}.tsv",),
)
