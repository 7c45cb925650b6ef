"""AudioCaps: ten seconds of videos with captions; many are gone from where they were published."""

from collections.abc import Iterator
from pathlib import Path

from nota_cli.data.corpora.prepare import Item, Reader, read_table

NAMES = ("{youtube_id}_{start_time}", "Y{youtube_id}", "{youtube_id}", "{audiocap_id}")
"""What people call the clips that they fetched; the first that is there counts."""
SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg")


def read(folder: Path, split: str) -> Iterator[Item]:
    """`SPLIT.csv` with `audiocap_id`, `youtube_id`, `start_time` and `caption`; the clips are in `SPLIT/` or `audio/`.

    Captions of one clip are one row.
    """
    captions: dict[tuple[str, str], list[str]] = {}
    ids: dict[tuple[str, str], str] = {}
    for row in read_table(folder / f"{split}.csv"):
        clip = row["youtube_id"], row["start_time"]
        captions.setdefault(clip, []).append(row["caption"])
        ids.setdefault(clip, row["audiocap_id"])
    folders = [name for name in (split, "audio", ".") if (folder / name).is_dir()]
    there = {path.name: path for name in reversed(folders) for path in (folder / name).iterdir()}
    for (video, start), texts in captions.items():
        stems = [name.format(youtube_id=video, start_time=start, audiocap_id=ids[video, start]) for name in NAMES]
        file = next((there[stem + suffix] for stem in stems for suffix in SUFFIXES if stem + suffix in there), None)
        path = f"{split}/{stems[0]}.wav" if file is None else str(file.relative_to(folder))
        yield {"path": path, "texts": texts, "task": "audiocaption_v2"}


READER = Reader(
    "audiocaps",
    "AudioCaps",
    "https://github.com/cdjkim/audiocaps",
    "captions: MIT; the videos belong to their makers",
    ("train", "val", "test"),
    read,
    ("{split}.csv",),
)
