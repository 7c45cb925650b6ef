"""Make the sample clips that ship with the tiny model, or other clips of the same kind for training.

    python scripts/make_samples.py                                     # remakes checkpoints/tiny/samples, bit for bit
    python scripts/make_samples.py --train 400 --seed 1 --out DIR      # training clips; never one of the shipped ones

Speech is digit strings spoken by espeak-ng (a program of its own: `apt-get install espeak-ng`; the shipped files come
from version 1.51, another may speak otherwise), sounds are synthesised with numpy. All are 16 kHz mono 16-bit FLAC.
"""

import argparse
import io
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from nota_cli.data.corpora.base import write_annotation
from nota_cli.data.corpora.esc10 import ESC10_CAPTIONS
from nota_cli.data.corpora.fsdd import DIGIT_WORDS
from nota_cli.errors import NotaError, UsageError
from nota_cli.files import atomic_path

RATE = 16_000  # samples a second
SHIPPED = Path(__file__).resolve().parents[1] / "checkpoints" / "tiny" / "samples"

Rng = np.random.Generator


# --- speech ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Utterance:
    """What is spoken and how: espeak-ng's voice, words a minute, pitch (0 to 99) and gap between words (x 10 ms)."""

    digits: str
    voice: str
    speed: int = 140
    pitch: int = 50
    gap: int = 2

    @property
    def text(self) -> str:
        return " ".join(DIGIT_WORDS[int(digit)] for digit in self.digits)


SHIPPED_SPEECH = (
    Utterance("371", "en-us+m3", speed=135),
    Utterance("90", "en-gb+f2", speed=130, pitch=55),
    Utterance("5284", "en-us+f3", speed=140),
    Utterance("666", "en-gb+m1", speed=125, pitch=40, gap=4),
    Utterance("17352", "en-us", speed=150, pitch=45),
    Utterance("8049", "en-gb+f4", speed=145, pitch=60),
)
ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc")
VARIANTS = ("", *(f"+m{n}" for n in range(1, 9)), *(f"+f{n}" for n in range(1, 6)), "+Andrea", "+Michael", "+klatt2")


def speak(utterance: Utterance, rng: Rng) -> np.ndarray:
    """The utterance at 16 kHz with a little silence round it and a faint room noise, at least 1 s long."""
    options = {"-v": utterance.voice, "-s": utterance.speed, "-p": utterance.pitch, "-g": utterance.gap}
    command = ["espeak-ng", *(str(part) for option in options.items() for part in option), "--stdout", utterance.text]
    try:
        wav = subprocess.run(command, check=True, capture_output=True).stdout
    except FileNotFoundError as error:
        raise UsageError("espeak-ng is not installed; on Debian: apt-get install espeak-ng") from error
    except subprocess.CalledProcessError as error:
        raise UsageError(f"{' '.join(command)} failed: {error.stderr.decode(errors='replace').strip()}") from error
    spoken, rate = soundfile.read(io.BytesIO(wav), dtype="float64")
    spoken = soxr.resample(spoken, rate, RATE)
    loud = np.flatnonzero(np.abs(spoken) > 0.01 * np.abs(spoken).max())
    spoken = spoken[loud[0] : loud[-1] + 1]
    before, after = (int(RATE * rng.uniform(0.08, 0.3)) for _ in range(2))
    after = max(after, RATE - before - len(spoken))
    clip = np.concatenate([np.zeros(before), spoken / np.abs(spoken).max(), np.zeros(after)])
    return clip + shaped_noise(len(clip), rng, lambda f: 1 / (1 + f / 500)) * 10 ** rng.uniform(-3.2, -2.4)


def training_utterances(count: int, rng: Rng) -> list[Utterance]:
    """Random strings of 1 to 5 digits in many voices; the strings that ship are left out."""
    shipped = {utterance.digits for utterance in SHIPPED_SPEECH}
    utterances: list[Utterance] = []
    while len(utterances) < count:
        digits = "".join(str(digit) for digit in rng.integers(0, 10, size=rng.integers(1, 6)))
        if digits not in shipped:
            voice = str(rng.choice(ACCENTS)) + str(rng.choice(VARIANTS))
            speed, pitch, gap = (int(rng.integers(low, high)) for low, high in ((120, 166), (25, 80), (0, 9)))
            utterances.append(Utterance(digits, voice, speed, pitch, gap))
    return utterances


# --- sounds: each takes a number of samples and a generator, and gives a waveform of any level -----------------------


def shaped_noise(samples: int, rng: Rng, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Gaussian noise whose spectrum is multiplied by `gain(frequency in Hz)`, with a root mean square of 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    noise = np.fft.irfft(spectrum * gain(np.fft.rfftfreq(samples, 1 / RATE)), samples)
    return noise / np.sqrt(np.mean(noise**2))


def band(low: float, high: float, order: int = 4) -> Callable[[np.ndarray], np.ndarray]:
    """Gain of a smooth band-pass between two frequencies in Hz."""
    return lambda f: 1 / np.sqrt((1 + (low / np.maximum(f, 1)) ** order) * (1 + (f / high) ** order))


def swell(samples: int, rng: Rng, rate: float) -> np.ndarray:
    """A smooth random curve with mean 0 and root mean square 1 that turns about `rate` times a second."""
    return shaped_noise(samples, rng, lambda f: np.where(f > 0, np.exp(-((f / rate) ** 2)), 0))


def add(clip: np.ndarray, at: int, burst: np.ndarray) -> None:
    """Add `burst` to `clip` from sample `at` on, cut at the clip's end."""
    part = clip[at : at + len(burst)]
    part += burst[: len(part)]


def ring(frequency: float, decay: float, seconds: float, rng: Rng) -> np.ndarray:
    """A struck resonance: a sine in Hz that falls to 1/e in `decay` seconds."""
    time = np.arange(int(seconds * RATE)) / RATE
    return np.sin(2 * np.pi * frequency * time + rng.uniform(0, 2 * np.pi)) * np.exp(-time / decay)


def rain(samples: int, rng: Rng) -> np.ndarray:
    """A steady hiss with single drops in it."""
    low, high = np.exp(rng.uniform(np.log(40), np.log(1500))), rng.uniform(3000, 9000)
    clip = shaped_noise(samples, rng, band(low, high, 2)) * (1 + 0.08 * swell(samples, rng, 1.0))
    level = rng.uniform(0.5, 2.5)
    for at in rng.integers(0, samples, size=int(rng.uniform(20, 150) * samples / RATE)):
        drop = ring(rng.uniform(1200, 6500), rng.uniform(5e-4, 3e-3), 0.02, rng)
        add(clip, int(at), level * rng.exponential() * drop)
    return clip


def sea_waves(samples: int, rng: Rng) -> np.ndarray:
    """A low rumble, and surf that rises slowly, breaks brightly and runs out."""
    time = np.arange(samples) / RATE
    rumble = shaped_noise(samples, rng, band(40, rng.uniform(200, 500), 3))
    surf = shaped_noise(samples, rng, band(120, rng.uniform(600, 1800), 3))
    spray = shaped_noise(samples, rng, band(1000, rng.uniform(2500, 6000), 4))
    period, breaks = rng.uniform(3.0, 6.0), rng.uniform(0.3, 0.6)
    phase = (time / period + rng.uniform(0, 1)) % 1
    runout = np.exp(-(phase - breaks) / rng.uniform(0.15, 0.35)) * (1 - phase) / (1 - breaks)
    wave = np.where(phase < breaks, (phase / breaks) ** 2, runout)
    wave = np.convolve(wave, np.hanning(4001) / np.hanning(4001).sum(), mode="same")
    wave *= 1 + 0.1 * swell(samples, rng, 2.0)
    return 0.35 * rumble * (0.5 + wave) + surf * (0.12 + wave) + rng.uniform(0.1, 0.6) * spray * wave**2


def clock_tick(samples: int, rng: Rng) -> np.ndarray:
    """Ticks at a steady pace, every other one a little different, over a quiet room."""
    room = shaped_noise(samples, rng, lambda f: 1 / (1 + (f / 150) ** 1.2))
    clip = room * 10 ** rng.uniform(-3.2, -1.9)
    pace = rng.uniform(0.2, 1.0)
    kinds = [_tick(rng) * rng.uniform(0.6, 1.0) for _ in range(2)]
    start = rng.uniform(0.02, 0.2)
    for number in range(int((samples / RATE - start) / pace) + 1):
        at = int((start + number * pace) * RATE)
        add(clip, at, kinds[number % 2] * rng.uniform(0.9, 1.0))
        add(clip, at + int(0.02 * RATE), 0.15 * kinds[(number + 1) % 2])  # the escapement falls back
    return clip


def _tick(rng: Rng) -> np.ndarray:
    """A click of the works, the case that rings with it, and the room's echo."""
    length = int(0.3 * RATE)
    time = np.arange(length) / RATE
    tick = 0.7 * shaped_noise(length, rng, band(1000, 7000)) * np.exp(-time / rng.uniform(6e-4, 2e-3))
    for low, high in ((200, 900), (900, 2500), (1200, 6500), (1200, 6500), (1200, 6500)):
        tick += rng.uniform(0.2, 0.8) * ring(rng.uniform(low, high), rng.uniform(1e-3, 9e-3), 0.3, rng)
    echo = shaped_noise(length, rng, band(150, rng.uniform(2000, 6000), 2)) * np.exp(-time / rng.uniform(0.01, 0.05))
    return tick + rng.uniform(0.03, 0.2) * echo


def helicopter(samples: int, rng: Rng) -> np.ndarray:
    """Rotor blades that chop low noise 9 to 20 times a second, and a turbine far above them."""
    time = np.arange(samples) / RATE
    beats = rng.uniform(9, 20) * (time + 0.004 * np.cumsum(swell(samples, rng, 0.5)) / RATE)
    phase = (beats + rng.uniform(0, 1)) % 1
    chop = np.exp(-phase / rng.uniform(0.1, 0.3)) + 0.25 * np.exp(-((phase - 0.5) ** 2) / 0.01)
    thump = shaped_noise(samples, rng, band(30, rng.uniform(100, 200)))
    wash = shaped_noise(samples, rng, band(60, rng.uniform(250, 1200), rng.uniform(2.5, 4)))
    turbine = np.sin(2 * np.pi * rng.uniform(500, 2200) * time + 0.3 * swell(samples, rng, 3.0))
    gusts = np.exp(0.12 * swell(samples, rng, 1.5) + rng.uniform(-0.5, 0.5) * np.linspace(-1, 1, samples))
    rotor = rng.uniform(0.8, 1.6) * thump * (0.2 + chop) + 0.8 * wash * (rng.uniform(0.2, 0.7) + chop)
    return gusts * (rotor + rng.uniform(0, 0.04) * turbine)


def fire_crackling(samples: int, rng: Rng) -> np.ndarray:
    """Snaps of very different strength over the breath of the flames."""
    breath = shaped_noise(samples, rng, band(30, rng.uniform(80, 250), 3)) * np.exp(0.4 * swell(samples, rng, 3.0))
    hiss = shaped_noise(samples, rng, band(1500, 8000, 2))
    clip = rng.uniform(0.02, 0.12) * breath + 10 ** rng.uniform(-3.2, -2) * hiss
    busy = np.exp(0.8 * swell(samples, rng, 1.5))
    chance = rng.uniform(5, 30) * busy / busy.mean() / RATE
    for at in np.flatnonzero(rng.random(samples) < chance):
        length = int(RATE * 0.05)
        decay = np.exp(-np.arange(length) / (RATE * np.exp(rng.uniform(np.log(5e-4), np.log(1e-2)))))
        snap = shaped_noise(length, rng, band(rng.uniform(200, 2500), rng.uniform(3000, 8000), 2)) * decay
        add(clip, int(at), min(rng.pareto(1.3) * 0.12, 1.5) * snap)
    return clip


def chainsaw(samples: int, rng: Rng) -> np.ndarray:
    """A two-stroke engine whose throttle rises and sags, with the rasp of its chain."""
    throttle = 0.5 + 0.5 * np.tanh(1.5 * swell(samples, rng, rng.uniform(0.4, 1.2)) + rng.uniform(-0.5, 1.5))
    speed = rng.uniform(75, 130) * (1 + 0.35 * throttle + 0.01 * swell(samples, rng, 20.0))
    turns = np.cumsum(speed) / RATE
    engine = np.zeros(samples)
    body = [(rng.uniform(250, 900), 1.0), (rng.uniform(1200, 3500), rng.uniform(0.3, 1.0))]
    for harmonic in range(1, int(7500 / speed.max())):
        pitch = harmonic * speed.mean()
        gain = sum(level / (1 + ((pitch - centre) / (0.5 * centre)) ** 2) for centre, level in body)
        engine += (gain + 0.15) * harmonic**-0.4 * np.sin(2 * np.pi * harmonic * turns + rng.uniform(0, 2 * np.pi))
    engine /= np.sqrt(np.mean(engine**2))
    rasp = shaped_noise(samples, rng, band(600, rng.uniform(3000, 6500), 2)) * (0.4 + (turns % 1) ** 2) * throttle
    loudness = (rng.uniform(0.1, 0.6) + throttle) * (1 + 0.2 * swell(samples, rng, 12.0))
    return (engine + rng.uniform(0.5, 1.5) * rasp) * loudness


SOUNDS: dict[str, Callable[[int, Rng], np.ndarray]] = {
    "rain": rain,
    "sea-waves": sea_waves,
    "clock-tick": clock_tick,
    "helicopter": helicopter,
    "fire-crackling": fire_crackling,
    "chainsaw": chainsaw,
}


# --- files ----------------------------------------------------------------------------------------------------------


def save(path: Path, clip: np.ndarray, peak: float) -> None:
    """Write the clip as 16-bit FLAC with its largest sample at `peak`."""
    pcm = np.round(clip / np.abs(clip).max() * peak * 32767).astype(np.int16)
    with atomic_path(path) as part:
        soundfile.write(part, pcm, RATE, format="FLAC", subtype="PCM_16")


def make_shipped(folder: Path) -> None:
    """The six spoken strings and one clip of each sound, with references and ids."""
    rows = []
    for number, utterance in enumerate(SHIPPED_SPEECH):
        name = f"audio/digits-{utterance.digits}.flac"
        save(folder / name, speak(utterance, np.random.default_rng([20_000, number])), peak=0.7)
        rows.append({"path": name, "text": utterance.text, "task": "asr", "testset_id": f"test{number:04d}"})
    write_annotation(folder / "asr.json", rows)
    rows = []
    for number, (label, sound) in enumerate(SOUNDS.items()):
        name = f"audio/{label}.flac"
        save(folder / name, sound(4 * RATE, np.random.default_rng([30_000, number])), peak=0.6)
        text, key = ESC10_CAPTIONS[label][0], f"test{number:04d}"
        rows.append({"path": name, "text": text, "task": "audiocaption_v2", "label": label, "testset_id": key})
    write_annotation(folder / "aac.json", rows)


def make_training(folder: Path, strings: int, sounds: int, seed: int) -> None:
    """Training clips: so many spoken strings, and so many clips of each sound, of 3 to 5 s."""
    rng = np.random.default_rng([10_000, seed])  # the shipped clips' generators begin with other numbers
    rows = []
    for number, utterance in enumerate(training_utterances(strings, rng)):
        name = f"audio/speech-{number:04d}.flac"
        save(folder / name, speak(utterance, rng), peak=rng.uniform(0.35, 0.85))
        rows.append({"path": name, "text": utterance.text, "task": "asr", "speaker": utterance.voice})
    write_annotation(folder / "train-synth-asr.json", rows)
    rows = []
    for label, sound in SOUNDS.items():
        for number in range(sounds):
            name = f"audio/{label}-{number:03d}.flac"
            save(folder / name, sound(int(RATE * rng.uniform(3, 5)), rng), peak=rng.uniform(0.35, 0.85))
            texts = list(ESC10_CAPTIONS[label])
            text = texts[number % len(texts)]
            rows.append({"path": name, "text": text, "task": "audiocaption_v2", "label": label, "texts": texts})
    write_annotation(folder / "train-synth-aac.json", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, metavar="N", help="make N spoken strings and N/8 clips of each sound")
    parser.add_argument("--seed", type=int, default=0, help="of the training clips")
    parser.add_argument("--out", type=Path, help="folder to write to (default: the shipped samples' own)")
    arguments = parser.parse_args()
    if arguments.train is not None and (arguments.out is None or arguments.train < 8):
        parser.error("--train needs N of at least 8, and --out")
    try:
        if arguments.train is None:
            make_shipped(arguments.out or SHIPPED)
        else:
            make_training(arguments.out, arguments.train, arguments.train // 8, arguments.seed)
    except NotaError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
