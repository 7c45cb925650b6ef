"""Clips a second over clips of 1 to 30 s: nota's engine against a plain loop in the organisers' way, same weights.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --rows 1000 100000

The plain loop takes batches of 8 as the annotation has them, reads them and makes their features in the main process,
and pads everything to 30 s. Both ways run in turn, several times. The clips are the recordings that ship with the
model, one after another up to a random length. `--rows` also runs `nota infer` over so many rows of short clips and
tells its peak memory, and what scanning the headers of so many files costs. Ends with one JSON line.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from nota_cli.commands import load
from nota_cli.data.annotation import Row, read_annotation
from nota_cli.data.audio import SAMPLE_RATE, load_audio, load_clip
from nota_cli.data.batches import clip_paths, query_of
from nota_cli.data.inputs import extract
from nota_cli.data.scan import scan
from nota_cli.inference import feature_spec, predict
from nota_cli.model.audio_lm import AudioLM
from nota_cli.recipe.load import load_recipe

PLAIN_BATCH = 8
TASKS = ("asr", "audiocaption_v2")


def make_clips(recordings: Path, folder: Path, count: int, low: float, high: float) -> Path:
    """`count` flac files of `low` to `high` seconds and an annotation over them; returns the annotation."""
    rng = np.random.default_rng(5)
    sounds = [load_audio(path) for path in sorted(recordings.iterdir())]
    rows = []
    for index in range(count):
        wanted = round(rng.uniform(low, high) * SAMPLE_RATE)
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < wanted:
            parts.append(sounds[rng.integers(len(sounds))])
        name = f"{index}.flac"
        soundfile.write(folder / name, np.concatenate(parts)[:wanted], SAMPLE_RATE)
        rows.append({"path": name, "task": TASKS[index % 2], "text": "x", "testset_id": f"test{index:04d}"})
    return write_annotation(folder / "clips.json", rows)


def write_annotation(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text(json.dumps({"annotation": rows}))
    return path


def plain_loop(model: AudioLM, rows: list[Row], root: Path) -> None:
    """Batch after batch, as the organisers' script runs over a test set."""
    spec = feature_spec(model)
    for start in range(0, len(rows), PLAIN_BATCH):
        chosen = rows[start : start + PLAIN_BATCH]
        waves = [load_clip(clip_paths(row, root), row=row.index) for row in chosen]
        features = extract(waves, spec.mel_bins, front_end=spec.front_end, pad="30s", device=model.device)
        model.generate(features, [query_of(row) for row in chosen], model.recipe.generate)


def compare(checkpoint: Path, annotation: Path, rounds: int, workers: int, device: str) -> dict[str, object]:
    rows = read_annotation(annotation)
    model = load(load_recipe(str(checkpoint)).model_copy(update={"checkpoint": str(checkpoint)}), device)
    ways = {
        "plain": lambda: plain_loop(model, rows, annotation.parent),
        "nota": lambda: predict(model, rows, annotation.parent, workers=workers),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    ratios = [plain / ours for plain, ours in zip(seconds["plain"], seconds["nota"], strict=True)]
    return {
        "clips": len(rows),
        **{f"{name}_clips_per_second": round(len(rows) / statistics.median(took), 2) for name, took in seconds.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "workers": workers,
        "device": device,
    }


def peak_of_run(checkpoint: Path, annotation: Path, count: int, workers: int, device: str) -> dict[str, object]:
    """Peak resident memory of `nota infer` (the largest of its processes) over `count` rows that repeat the clips."""
    clips = json.loads(annotation.read_text())["annotation"]
    rows = [clips[index % len(clips)] | {"testset_id": f"test{index:04d}"} for index in range(count)]
    many = write_annotation(annotation.parent / "many.json", rows)
    command = [sys.executable, "-m", "nota_cli.cli", "infer", "--checkpoint", checkpoint, "--annotation", many]
    command += ["--out", annotation.parent / f"{count}.csv", "--workers", workers, "--device", device]
    process = subprocess.Popen([*map(str, command), "--set", "generate.max_new_tokens=2"], stdout=sys.stderr)
    started = time.perf_counter()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"nota infer over {count} rows failed")
    return {
        "rows": count,
        "peak_rss_mb": round(usage.ru_maxrss / 1024, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


def cost_of_scan(annotation: Path, count: int) -> dict[str, object]:
    """CPU seconds of reading the headers of `count` different files."""
    folder = annotation.parent / "links"
    folder.mkdir()
    clips = [annotation.parent / row["path"] for row in json.loads(annotation.read_text())["annotation"]]
    for index in range(count):
        os.link(clips[index % len(clips)], folder / f"{index}.flac")
    rows = [Row(index, f"{index}.flac", "asr", None, None, None, ()) for index in range(count)]
    started, cpu = time.perf_counter(), time.process_time()
    bad = scan(rows, folder)
    spent = {"cpu_seconds": round(time.process_time() - cpu, 1), "seconds": round(time.perf_counter() - started, 1)}
    return {"files": count, **spent, "bad": len(bad)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/tiny"))
    parser.add_argument("--recordings", type=Path, default=Path("checkpoints/tiny/samples/audio"))
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="measure memory over so many rows instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, checkpoint = Path(name), arguments.checkpoint.resolve()
        if arguments.rows:
            annotation = make_clips(arguments.recordings, folder, 32, 1.0, 1.5)
            how = (checkpoint, annotation)
            runs = [peak_of_run(*how, count, arguments.workers, arguments.device) for count in arguments.rows]
            growth = max(run["peak_rss_mb"] for run in runs) - min(run["peak_rss_mb"] for run in runs)
            result = {"runs": runs, "growth_mb": round(growth, 1), "scan": cost_of_scan(annotation, arguments.rows[-1])}
        else:
            annotation = make_clips(arguments.recordings, folder, arguments.clips, 1.0, 30.0)
            result = compare(checkpoint, annotation, arguments.rounds, arguments.workers, arguments.device)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
