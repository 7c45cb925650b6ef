"""Clotho: sounds of 15 to 30 s from Freesound, five captions each."""

from collections.abc import Iterator
from pathlib import Path

from nota_cli.data.corpora.prepare import Item, Reader, read_table


def read(folder: Path, split: str) -> Iterator[Item]:
    """`clotho_captions_SPLIT.csv` with `file_name` and `caption_1` to `caption_5`; the clips are in `SPLIT/`."""
    for row in read_table(folder / f"clotho_captions_{split}.csv"):
        captions = [row[f"caption_{number}"] for number in range(1, 6)]
        yield {"path": f"{split}/{row['file_name']}", "texts": captions, "task": "audiocaption"}


READER = Reader(
    "clotho",
    "Clotho 2",
    "https://zenodo.org/records/4783391",
    "captions: Tampere University's license, not commercial; recordings: Freesound's, as its metadata tables say",
    ("development", "validation", "evaluation"),
    read,
    ("clotho_captions_{split}.csv",),
)
