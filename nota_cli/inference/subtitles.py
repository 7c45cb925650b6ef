"""Texts with times as subtitles: SubRip (`.srt`) and WebVTT (`.vtt`)."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

LINE = 42  # characters, as broadcasters have it


@dataclass(frozen=True)
class TimedText:
    """What is said, or heard, between two seconds of a recording."""

    start: float
    stop: float
    text: str


def srt(texts: Sequence[TimedText]) -> str:
    """A SubRip file; what has no text is left out."""
    cues = [each for each in texts if each.text.strip()]
    blocks = [f"{number}\n{_times(cue, ',')}\n{_lines(cue.text)}\n" for number, cue in enumerate(cues, 1)]
    return "\n".join(blocks)


def vtt(texts: Sequence[TimedText]) -> str:
    """A WebVTT file; what has no text is left out."""
    blocks = [f"{_times(cue, '.')}\n{_escaped(_lines(cue.text))}\n" for cue in texts if cue.text.strip()]
    return "\n".join(["WEBVTT\n", *blocks])


def _times(cue: TimedText, point: str) -> str:
    return f"{_clock(cue.start, point)} --> {_clock(cue.stop, point)}"


def _clock(seconds: float, point: str) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _lines(text: str) -> str:
    return "\n".join(textwrap.wrap(text, LINE))


def _escaped(text: str) -> str:
    """WebVTT reads tags and character references."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
