"""Synthetic English speech for training: sentences of Debian's text packages, read by espeak-ng and flite.

    apt-get install espeak-ng flite bible-kjv-text fortunes dict-devil dict-gcide dict-wn
    python scripts/synthesize_speech.py --out data/synthetic --clips 14000

Real recordings of a few hours hold a few thousand words; a model that shall spell any word must hear others, too. The
sentences: examples of WordNet and quotations of GCIDE (Webster 1913), the King James Bible, The Devil's Dictionary,
fortunes; none with digits or single letters. Voices: espeak-ng's English accents and variants, flite's slt, rms, awb
and kal16, at random speed and pitch. Killed, it goes on where it was. Writes OUT/synthetic.json, OUT/texts.txt (every
sentence, for choosing a vocabulary) and OUT/clips/*.opus.
"""

import argparse
import gzip
import os
import random
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from nota_cli.console import progress
from nota_cli.data.corpora.base import write_annotation

SAMPLE_RATE = 16_000
SHARES = {"wordnet": 0.36, "bible": 0.18, "gcide": 0.11, "devil": 0.10}
"""Of the clips; fortunes have the rest."""
FORTUNES = Path("/usr/share/games/fortunes")
ACCENTS = ("en-us", "en-us", "en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029")
VARIANTS = ("", *(f"+m{i}" for i in range(1, 8)), *(f"+f{i}" for i in range(1, 6)))
FLITE = {"slt": (0.32, 180), "rms": (0.32, 105), "awb": (0.24, 120), "kal16": (0.12, 105)}
"""flite's voices: share of its clips, and mean pitch in Hz."""


@dataclass(frozen=True)
class Job:
    """One clip: its file's number, what is read, by whom, and at which peak amplitude."""

    number: int
    text: str
    voice: str
    command: tuple[str, ...]
    peak: float


def sentences(paragraphs: Iterable[str]) -> Iterator[str]:
    """Lower-case sentences of 3 to 18 words, letters and apostrophes alone."""
    for paragraph in paragraphs:
        paragraph = paragraph.replace("\u2019", "'").replace("\n", " ")
        for part in re.split(r"(?<=[.!?;:])\s+|--+|\s{3,}", paragraph):
            if re.search(r"[0-9@#$%^*_=<>|\\/{}\[\]]", part):
                continue
            text = re.sub(r"[^a-z' ]", " ", part.lower())
            text = " ".join(re.sub(r"(?<![a-z])'|'(?![a-z])", " ", text).split())
            if 3 <= len(text.split()) <= 18 and len(text) < 110 and not re.search(r"\b[b-hj-z]\b", text):
                yield text


def dictionary(name: str) -> str:
    """The text of one of the dict-* packages."""
    with gzip.open(f"/usr/share/dictd/{name}.dict.dz", "rt", errors="ignore") as file:
        return file.read()


def sources() -> dict[str, list[str]]:
    """Sentences by source, each once, in a fixed order."""
    verses = subprocess.run(
        ["bible", "-l", "200", "gen1:1-rev22:21"], check=True, capture_output=True, text=True, errors="ignore"
    ).stdout.splitlines()
    wordnet = re.sub(r"\s+", " ", dictionary("wn"))
    gcide = re.sub(r"\s+", " ", dictionary("gcide"))
    fortunes = [file for file in sorted(FORTUNES.iterdir()) if not file.suffix and file.name != "ascii-art"]
    texts = {
        "wordnet": re.findall(r'"([^"]{10,150})"', wordnet),
        "bible": [re.sub(r"^[A-Za-z0-9 ]*\d+:\d+\s*", "", verse) for verse in verses],
        "gcide": re.findall(r"(?<=\. )([A-Z][^.\[\]{}()\\]{20,140}\.) --", gcide),
        "devil": re.sub(r"\n\s+", " ", dictionary("devil")).split("\n"),
        "fortunes": [part for file in fortunes for part in file.read_text(errors="ignore").split("\n%\n")],
    }
    return {name: list(dict.fromkeys(sentences(parts))) for name, parts in texts.items()}


def jobs(texts: dict[str, list[str]], count: int, seed: int) -> list[Job]:
    """What is read by whom; depends on the texts, `count` and `seed` alone."""
    rng = random.Random(seed)
    chosen = [text for name, share in SHARES.items() for text in rng.sample(texts[name], int(count * share))]
    chosen += rng.sample(texts["fortunes"], count - len(chosen))
    rng.shuffle(chosen)
    made = []
    for number, text in enumerate(chosen):
        if rng.random() < 0.36:
            voice = rng.choice(ACCENTS) + rng.choice(VARIANTS)
            speed, pitch = rng.randint(120, 200), rng.randint(25, 75)
            command = ("espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", "WAV", text)
        else:
            voice = rng.choices(list(FLITE), [share for share, _ in FLITE.values()])[0]
            stretch, pitch = rng.uniform(0.8, 1.25), FLITE[voice][1] * rng.uniform(0.85, 1.2)
            options = ("--setf", f"duration_stretch={stretch:.2f}", "--setf", f"int_f0_target_mean={pitch:.0f}")
            command = ("flite", "-voice", voice, *options, "-t", text, "-o", "WAV")
        made.append(Job(number, text, f"{command[0]} {voice}", command, rng.uniform(0.3, 0.9)))
    return made


def speak(job: Job, folder: Path) -> dict[str, object] | None:
    """The annotation row of one clip, made unless its file is there; None for one that is very short or long."""
    path = folder / "clips" / f"{job.number:05d}.opus"
    if not path.exists():
        with tempfile.TemporaryDirectory() as aside:
            wav = f"{aside}/x.wav"
            command = [wav if word == "WAV" else word for word in job.command]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            wave, rate = soundfile.read(wav, dtype="float32", always_2d=True)
        wave = soxr.resample(wave[:, 0], rate, SAMPLE_RATE)
        if not 0.4 < len(wave) / SAMPLE_RATE < 14:
            return None
        wave *= job.peak / max(0.05, float(np.abs(wave).max()))
        part = path.with_suffix(".part")
        soundfile.write(part, wave, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=0.955)
        os.replace(part, path)
    seconds = round(soundfile.info(path).duration, 2)
    return {
        "path": f"clips/{path.name}", "text": job.text, "task": "asr", "seconds": seconds, "speaker": job.voice
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/synthetic"))
    parser.add_argument("--clips", type=int, default=14_000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    (arguments.out / "clips").mkdir(parents=True, exist_ok=True)
    texts = sources()
    every = sorted({text for part in texts.values() for text in part})
    (arguments.out / "texts.txt").write_text("\n".join(every) + "\n", encoding="utf-8")
    work = jobs(texts, arguments.clips, arguments.seed)
    with ThreadPoolExecutor(arguments.jobs) as pool, progress(True) as bar:
        task = bar.add_task("speech", total=len(work), detail="")
        rows = []
        for row in pool.map(lambda job: speak(job, arguments.out), work):
            bar.update(task, advance=1)
            rows += [row] if row else []
    write_annotation(arguments.out / "synthetic.json", rows)
    hours = sum(float(str(row["seconds"])) for row in rows) / 3600
    print(f"{arguments.out / 'synthetic.json'}: {len(rows)} clips, {hours:.1f} h")


if __name__ == "__main__":
    main()
