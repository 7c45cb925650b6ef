"""GigaSpeech: audiobooks, podcasts and YouTube; long recordings, and one table with the segments that are spoken."""

import json
from collections.abc import Iterator
from pathlib import Path

from nota_cli.data.corpora.clips import Segment
from nota_cli.data.corpora.prepare import Item, Reader

TABLE = "GigaSpeech.json"
PUNCTUATION = {" <COMMA>": ",", " <PERIOD>": ".", " <QUESTIONMARK>": "?", " <EXCLAMATIONPOINT>": "!"}
NOT_SPEECH = {"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"}


def read(folder: Path, split: str) -> Iterator[Item]:
    """`GigaSpeech.json`: recordings with their segments; a segment belongs to the subsets that it names.

    Segments without speech are left out, as the corpus's own scoring does; punctuation tags become punctuation.
    """
    subset = "{" + split.upper() + "}"
    for recording in json.loads((folder / TABLE).read_text(encoding="utf-8"))["audios"]:
        if subset not in recording["subsets"]:
            continue
        for segment in recording["segments"]:
            text = segment["text_tn"]
            if subset not in segment["subsets"] or text.strip() in NOT_SPEECH:
                continue
            for tag, mark in PUNCTUATION.items():
                text = text.replace(tag, mark)
            start, end = float(segment["begin_time"]), float(segment["end_time"])
            clip = Segment(folder / recording["path"], start, end)
            path = f"{recording['aid']}/{segment['sid']}.flac"
            yield {"path": path, "text": text, "task": "asr", "speaker": recording["aid"], "clip": clip}


READER = Reader(
    "gigaspeech",
    "GigaSpeech",
    "https://github.com/SpeechColab/GigaSpeech",
    "by application, for non-commercial research and education",
    ("xs", "s", "m", "l", "xl", "dev", "test"),
    read,
    (TABLE,),
)
