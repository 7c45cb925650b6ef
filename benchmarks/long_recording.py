"""A long recording made of clips with pauses between them: WER and segment times beside the clips' own.

    python benchmarks/long_recording.py [--annotation FILE --audio-root DIR] [--minutes 10] [--recipe tiny]

Clips are drawn at random, 1 to 5 s of faint noise before each, until the recording is long enough. It is transcribed as
`nota transcribe --format json` does it, and the clips one by one. Ends with one JSON line: WER of both in percent, how
many segments there are of how many clips, seconds that it took, and the share of clips of which a segment begins and
ends within 0.3 s of the truth: of the clip's own ends, and of its first and last sound (40 dB below its loudest 20 ms),
which lie apart where a clip begins or ends with silence.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from nota_cli.api import AudioLM
from nota_cli.assets import home
from nota_cli.data.annotation import clip_paths, read_annotation
from nota_cli.data.audio.clip import load_clip
from nota_cli.inference.subtitles import TimedText
from nota_cli.score.wer import wer_as_written

RATE = 16_000
SAMPLES = home() / "checkpoints" / "tiny" / "samples"
NEAR = 0.3


def sound_in(clip: np.ndarray) -> tuple[float, float]:
    """Seconds at which a clip's sound begins and ends."""
    frames = clip[: len(clip) // 320 * 320].reshape(-1, 320)
    power = (frames.astype(float) ** 2).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 1e-4)
    return loud[0] * 0.02, (loud[-1] + 1) * 0.02


def share_near(segments: list[TimedText], truth: list[tuple[float, float]]) -> float:
    """Percent of the true spans of which a segment has both ends."""
    near = [
        any(abs(part.start - start) <= NEAR and abs(part.stop - stop) <= NEAR for part in segments)
        for start, stop in truth
    ]
    return round(100 * sum(near) / len(near), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotation", type=Path, default=SAMPLES / "asr.json")
    parser.add_argument("--audio-root", type=Path)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--noise", type=float, default=-65.0, help="dB of full scale, in the pauses")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    root = arguments.audio_root or arguments.annotation.parent
    rows = [row for row in read_annotation(arguments.annotation) if row.task == "asr"]
    generator = np.random.default_rng(arguments.seed)
    pieces, ends, sounds, references, clips, length = [], [], [], [], [], 0
    while length < arguments.minutes * 60 * RATE:
        row = rows[generator.integers(len(rows))]
        gap = 10 ** (arguments.noise / 20) * generator.standard_normal(round(generator.uniform(1, 5) * RATE))
        clip = load_clip(clip_paths(row, root))
        start = (length + len(gap)) / RATE
        ends.append((start, start + len(clip) / RATE))
        sounds.append(tuple(start + second for second in sound_in(clip)))
        pieces += [gap, clip]
        references.append(row.text or "")
        clips.append(clip)
        length += len(gap) + len(clip)
    model = AudioLM.from_pretrained(arguments.recipe)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        soundfile.write(path, np.clip(np.concatenate(pieces), -1, 1), RATE)
        started = time.monotonic()
        (segments,) = model.segments([path])
        took = time.monotonic() - started
        whole = model.transcribe(path, long="chunk")
        files = [Path(folder) / f"{number}.wav" for number in range(len(clips))]
        for file, clip in zip(files, clips, strict=True):
            soundfile.write(file, clip, RATE)
        alone = model.transcribe(files)
    assert isinstance(segments, list)
    assert isinstance(whole, str)
    report = {
        "seconds": round(length / RATE, 1),
        "clips": len(clips),
        "segments": len(segments),
        "wer_clip_by_clip": round(100 * wer_as_written(list(zip(alone, references, strict=True))), 2),
        "wer_long": round(100 * wer_as_written([(whole, " ".join(references))]), 2),
        "near_the_clips_ends": share_near(segments, ends),
        "near_the_sounds_ends": share_near(segments, sounds),
        "took": round(took, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
