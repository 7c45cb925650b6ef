"""speechocean762: English read by speakers of Mandarin, in Kaldi's tables."""

from collections.abc import Iterator
from pathlib import Path

from nota_cli.data.corpora.prepare import Item, Reader


def read(folder: Path, split: str) -> Iterator[Item]:
    """`SPLIT/wav.scp`, `SPLIT/text` and `SPLIT/utt2spk`: an utterance a line, its id first."""
    tables = {}
    for name in ("wav.scp", "text", "utt2spk"):
        lines = (folder / split / name).read_text(encoding="utf-8").splitlines()
        tables[name] = dict((line.split(maxsplit=1) + [""])[:2] for line in lines if line.strip())
    for utterance, path in tables["wav.scp"].items():
        speaker = tables["utt2spk"][utterance].strip()
        yield {"path": path.strip(), "text": tables["text"][utterance], "task": "asr", "speaker": speaker}


def genders(folder: Path, split: str) -> dict[str, str]:
    """`SPLIT/spk2gender`: a speaker a line, then `m` or `f`."""
    lines = (folder / split / "spk2gender").read_text(encoding="utf-8").split("\n")
    return {line.split()[0]: {"m": "male", "f": "female"}[line.split()[1].lower()] for line in lines if line.strip()}


READER = Reader(
    "speechocean762",
    "speechocean762",
    "https://www.openslr.org/101",
    "free for commercial and other use (CC BY 4.0)",
    ("train", "test"),
    read,
    ("{split}/text", "{split}/wav.scp", "{split}/utt2spk"),
    genders,
)
