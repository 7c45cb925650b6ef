"""ESC-50: everyday sounds of fifty classes in five folds."""

from collections.abc import Iterator
from pathlib import Path

from nota_cli.data.corpora.prepare import Item, Reader, read_table

FOLDS = tuple(f"fold{number}" for number in range(1, 6))


def read(folder: Path, split: str) -> Iterator[Item]:
    """`meta/esc50.csv` with `filename`, `fold` and `category`; the clips are in `audio/`. Splits: folds, `all`."""
    for row in read_table(folder / "meta" / "esc50.csv"):
        if split in ("all", f"fold{row['fold']}"):
            label = row["category"].replace("_", " ")
            yield {"path": f"audio/{row['filename']}", "text": label, "task": "audiocaption_v2", "label": label}


READER = Reader(
    "esc50",
    "ESC-50",
    "https://github.com/karolpiczak/ESC-50",
    "CC BY-NC 3.0; its subset ESC-10 CC BY 3.0",
    ("all", *FOLDS),
    read,
    ("meta/esc50.csv",),
)
