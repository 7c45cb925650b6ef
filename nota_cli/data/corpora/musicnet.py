"""MusicNet: classical recordings, each with composer, piece and instruments, from which a description is made."""

from collections.abc import Iterator
from pathlib import Path

from nota_cli.data.corpora.prepare import Item, Reader, read_table


def read(folder: Path, split: str) -> Iterator[Item]:
    """`musicnet_metadata.csv` with `id`, `composer`, `composition`, `movement`, `ensemble`; clips in `SPLIT_data/`."""
    inside = {path.stem for path in (folder / f"{split}_data").iterdir()}
    for row in read_table(folder / "musicnet_metadata.csv"):
        if row["id"] in inside:
            text = f"{row['ensemble']} plays {row['composition']} by {row['composer']}"
            movement = row.get("movement", "").strip()
            yield {
                "path": f"{split}_data/{row['id']}.wav",
                "text": f"{text}, {movement}" if movement else text,
                "task": "music_description",
            }


READER = Reader(
    "musicnet",
    "MusicNet",
    "https://zenodo.org/records/5120004",
    "CC BY 4.0",
    ("train", "test"),
    read,
    ("musicnet_metadata.csv",),
)
