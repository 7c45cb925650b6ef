"""Subtitles as a library reads them that others keep."""

import pysubs2
import pytest

from nota_cli.inference.subtitles import TimedText, srt, vtt

TEXTS = [
    TimedText(0.1, 2.34, "one two"),
    TimedText(59.9996, 61.0, "a < b & c, " + "which is a long line that has to be broken somewhere"),
    TimedText(62.0, 63.0, "  "),
    TimedText(3725.5, 3730.0, "über"),
]


@pytest.mark.parametrize(("form", "write"), [("srt", srt), ("vtt", vtt)])
def test_what_is_written_is_read_back(form: str, write) -> None:
    read = pysubs2.SSAFile.from_string(write(TEXTS), format_=form)
    assert [(event.start, event.end) for event in read] == [(100, 2340), (60000, 61000), (3725500, 3730000)]
    for event, timed in zip(read, [TEXTS[0], TEXTS[1], TEXTS[3]], strict=True):
        text = event.plaintext.replace("&lt;", "<").replace("&amp;", "&")
        text = text.replace("&gt;", ">")
        assert " ".join(text.split()) == timed.text
        assert all(len(line) <= 42 for line in text.splitlines())


def test_nothing_said_is_an_empty_file() -> None:
    assert srt([]) == ""
    assert vtt([]).strip() == "WEBVTT"
