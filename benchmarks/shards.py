"""Reading recordings out of tar shards that are not in memory: any row at any time, and nearly as they lie.

    python benchmarks/shards.py --work WORK

Shards of noise (16-bit WAV) are written into WORK, unless they lie there. For each way the system forgets them, and the
clips of a number of batches are read as a training run reads them; no features are made. `shuffle_buffer` 0 draws any
row at any time. Prints a Markdown table: clips and MB (of 2**20 bytes) a second, how much the disk was read (0 where
the system keeps files elsewhere), and how many shards the clips lay in.
"""

import argparse
import io
import json
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import soundfile

from nota_cli.data.audio.shards import read_ahead, read_member
from nota_cli.data.batches import TrainingBatches
from nota_cli.features.batch import FeatureSpec
from nota_cli.features.constants import SAMPLE_RATE
from nota_cli.paths import audio_path, tar_member
from nota_cli.recipe.training import Augment, Source

BATCH = 8
SPEC = FeatureSpec(mel_bins=80, front_end=None, pad="clip", max_seconds=30.0)


def write_shards(folder: Path, shards: int, clips: int, seconds: float) -> None:
    rng = np.random.default_rng(0)
    for number in range(shards):
        file = folder / f"shard-{number:04d}.tar"
        if file.exists():
            continue
        part = file.with_suffix(".part")
        with tarfile.open(part, "w") as archive:
            for clip in range(clips):
                wave = io.BytesIO()
                noise = (0.1 * rng.standard_normal(int(seconds * SAMPLE_RATE))).astype(np.float32)
                soundfile.write(wave, noise, SAMPLE_RATE, format="WAV")
                row = {"text": f"clip {clip} of shard {number}", "task": "asr"}
                for ending, data in (("json", json.dumps(row).encode()), ("wav", wave.getvalue())):
                    info = tarfile.TarInfo(f"{clip:06d}.{ending}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        part.rename(file)


def forget(folder: Path) -> None:
    """Have the system drop what it keeps of the shards in memory."""
    for file in folder.glob("*.tar"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def bytes_from_disk() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def measure(folder: Path, buffer: int, ahead: bool, batches: int) -> str:
    source = Source(annotation=str(folder / "shard-*.tar"), audio_root=str(folder), shuffle_buffer=buffer)
    plan = TrainingBatches([source], SPEC, Augment(), BATCH, seed=0)
    rows = plan.corpora[0].rows
    paths = [audio_path(folder, rows[draw.rows[0]].path) for index in range(batches) for draw in plan.plan[index]]
    forget(folder)
    from_disk, started, read, shards = bytes_from_disk(), time.monotonic(), 0, set()
    for path in paths:
        if ahead:
            read_ahead(path)
        member = tar_member(path)
        assert member is not None
        shards.add(member[0])
        read += len(read_member(*member))
    seconds = time.monotonic() - started
    name = f"{buffer}" if ahead or not buffer else f"{buffer}, nothing read ahead"
    return (
        f"| {name} | {len(paths) / seconds:.0f} | {read / seconds / 2**20:.0f} | "
        f"{(bytes_from_disk() - from_disk) / 2**20:.0f} of {read / 2**20:.0f} | {len(shards)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--clips", type=int, default=256, help="of a shard")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a clip")
    parser.add_argument("--batches", type=int, default=128)
    parser.add_argument("--buffer", type=int, default=512)
    options = parser.parse_args()
    folder: Path = options.work.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["NOTA_CACHE"] = str(folder / "kept")
    write_shards(folder, options.shards, options.clips, options.seconds)
    print("| `shuffle_buffer` | clips/s | MB/s | MB from disk | shards |\n|---|---|---|---|---|")
    ways = [(0, False), (options.buffer, False), (options.buffer, True)]
    for buffer, ahead in ways * 2:
        print(measure(folder, buffer, ahead, options.batches), flush=True)


if __name__ == "__main__":
    main()
