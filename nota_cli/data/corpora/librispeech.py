"""LibriSpeech: read books, one folder a speaker and chapter, a transcript file in each."""

from collections.abc import Iterator
from pathlib import Path

from nota_cli.data.corpora.prepare import Item, Reader

SPLITS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")


def read(folder: Path, split: str) -> Iterator[Item]:
    """`SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`, an utterance a line: its id, a blank, the words."""
    if not (folder / split).is_dir():
        raise ValueError(f"no folder {split}")
    for transcript in sorted((folder / split).rglob("*.trans.txt")):
        for line in transcript.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            path = transcript.with_name(f"{name}.flac").relative_to(folder)
            yield {"path": str(path), "text": text, "task": "asr", "speaker": name.split("-")[0]}


def genders(folder: Path, split: str) -> dict[str, str]:
    """`SPEAKERS.TXT`: a speaker a line, `ID | SEX | SUBSET | MINUTES | NAME`; lines with `;` are comments."""
    lines = (folder / "SPEAKERS.TXT").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line.strip() and not line.startswith(";")]
    return {row[0]: {"M": "male", "F": "female"}[row[1]] for row in rows}


READER = Reader(
    "librispeech",
    "LibriSpeech",
    "https://www.openslr.org/12",
    "CC BY 4.0",
    SPLITS,
    read,
    ("{split}/**/*.trans.txt",),
    genders,
)
