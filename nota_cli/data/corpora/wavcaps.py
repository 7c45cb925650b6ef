"""WavCaps: 400,000 clips of four sources with captions that a language model has made of their descriptions."""

import json
from collections.abc import Iterator
from pathlib import Path

from nota_cli.data.corpora.prepare import Item, Reader

SOURCES = {
    "AudioSet_SL": "as_final.json",
    "BBC_Sound_Effects": "bbc_final.json",
    "FreeSound": "fsd_final.json",
    "SoundBible": "sb_final.json",
}


def read(folder: Path, split: str) -> Iterator[Item]:
    """`json_files/SOURCE/*_final.json`, whose `data` has `id` and `caption`; the clips are in `SOURCE_flac/`."""
    tables = [folder / "json_files" / split / SOURCES[split], folder / "json_files" / split / "fsd_final.json"]
    table = next((path for path in tables if path.is_file()), folder / "json_files" / SOURCES[split])
    for row in json.loads(table.read_text(encoding="utf-8"))["data"]:
        name = Path(str(row["id"])).stem if str(row["id"]).endswith(".wav") else str(row["id"])
        item = {"path": f"{split}_flac/{name}.flac", "text": row["caption"], "task": "audiocaption_v2"}
        yield {**item, "source": f"WavCaps/{split}"}


READER = Reader(
    "wavcaps",
    "WavCaps",
    "https://huggingface.co/datasets/cvssp/WavCaps",
    "for academic use; the clips under their sources' own terms",
    tuple(SOURCES),
    read,
    ("json_files/**/*_final.json",),
)
