"""Clips a second over clips of 1 to 30 s: nota's engine against plain loops with the same weights.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --rows 1000 100000

A plain loop takes batches of 8 as the annotation has them, reads them and makes their features in the main process,
and pads everything to 30 s. There are two:

- organisers: with attention as BEATs' authors published it and transformers' `generate`, which is what the organisers'
  script runs. Features are made by nota's code, which is faster than theirs.
- loop: with nota's own model code, so that only the loop differs.

All ways run in turn, several times. The clips are the recordings that ship with the model, one after another up to a
random length. `--rows` also runs `nota infer` over so many rows of short clips and
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
from unittest.mock import patch

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from nota_cli.data.annotation import Row, read_annotation
from nota_cli.data.audio.clip import SAMPLE_RATE, load_audio, load_clip
from nota_cli.data.audio.headers import scan
from nota_cli.data.batches import clip_paths
from nota_cli.data.row_batches import query_of
from nota_cli.features.batch import extract
from nota_cli.inference.predict import predict
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.models.loading import load
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Generate

PLAIN_BATCH = 8
SCALE = 32.0  # that BEATs' authors divide scores by on their way, to keep them in half precision
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


def plain_loop(model: Salmonn, rows: list[Row], root: Path, settings: Generate) -> None:
    """Batch after batch, as the organisers' script runs over a test set."""
    spec = model.preprocessor()
    for start in range(0, len(rows), PLAIN_BATCH):
        chosen = rows[start : start + PLAIN_BATCH]
        waves = [load_clip(clip_paths(row, root), row=row.index) for row in chosen]
        features = extract(waves, spec.mel_bins, front_end=spec.front_end, pad="30s", device=model.device)
        model.generate(features, [query_of(row) for row in chosen], settings)


def published_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    by_distance: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Takes and gives what `gated_attention` does, in the steps of BEATs' authors: every score in memory at once."""
    scores = (query * (key.size(-1) ** -0.5 / SCALE)) @ key.transpose(-1, -2)
    scores = (scores - scores.amax(-1, keepdim=True)) * SCALE
    scores = scores + gate * by_distance.unfold(-1, query.size(2), 1).flip(1)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    return F.dropout(scores.softmax(-1), dropout) @ value


def organisers_loop(model: Salmonn, rows: list[Row], root: Path) -> None:
    """The plain loop over the models as the organisers' script has them."""
    with patch("nota_cli.models.encoders.beats.gated_attention", published_attention):
        plain_loop(model, rows, root, model.recipe.generate.model_copy(update={"decoding": "plain"}))


def compare(checkpoint: Path, annotation: Path, rounds: int, workers: int | None, device: str) -> dict[str, object]:
    rows = read_annotation(annotation)
    model = load(load_recipe(str(checkpoint)).model_copy(update={"checkpoint": str(checkpoint)}), device)
    ways = {
        "organisers": lambda: organisers_loop(model, rows, annotation.parent),
        "loop": lambda: plain_loop(model, rows, annotation.parent, model.recipe.generate),
        "nota": lambda: predict(model, rows, annotation.parent, workers=workers),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    ratios = {
        name: [round(plain / ours, 2) for plain, ours in zip(took, seconds["nota"], strict=True)]
        for name, took in seconds.items()
        if name != "nota"
    }
    return {
        "clips": len(rows),
        **{f"{name}_clips_per_second": round(len(rows) / statistics.median(took), 2) for name, took in seconds.items()},
        **{f"ratio_{name}": round(statistics.median(each), 2) for name, each in ratios.items()},
        "ratios": ratios,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "workers": workers,
        "device": device,
    }


def peak_of_run(checkpoint: Path, annotation: Path, count: int, how: list[str]) -> dict[str, object]:
    """Peak resident memory of `nota infer` (the largest of its processes) over `count` rows that repeat the clips."""
    clips = json.loads(annotation.read_text())["annotation"]
    rows = [clips[index % len(clips)] | {"testset_id": f"test{index:04d}"} for index in range(count)]
    many = write_annotation(annotation.parent / "many.json", rows)
    command = [sys.executable, "-m", "nota_cli.cli", "infer", "--checkpoint", checkpoint, "--annotation", many]
    command += ["--out", annotation.parent / f"{count}.csv", *how]
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
    parser.add_argument("--workers", type=int, help="nota's default if not given")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="measure memory over so many rows instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, checkpoint = Path(name), arguments.checkpoint.resolve()
        if arguments.rows:
            annotation = make_clips(arguments.recordings, folder, 32, 1.0, 1.5)
            how = ["--device", arguments.device]
            how += [] if arguments.workers is None else ["--workers", str(arguments.workers)]
            runs = [peak_of_run(checkpoint, annotation, count, how) for count in arguments.rows]
            growth = max(run["peak_rss_mb"] for run in runs) - min(run["peak_rss_mb"] for run in runs)
            result = {"runs": runs, "growth_mb": round(growth, 1), "scan": cost_of_scan(annotation, arguments.rows[-1])}
        else:
            annotation = make_clips(arguments.recordings, folder, arguments.clips, 1.0, 30.0)
            result = compare(checkpoint, annotation, arguments.rounds, arguments.workers, arguments.device)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
