"""Training on an annotation of 1.6 million rows: how soon the first batch is there, and the memory it takes, as JSON.

    python benchmarks/rows.py --work WORK                   # the shipped samples' recordings behind all rows
    python benchmarks/rows.py --work WORK --links           # a name of its own (a hard link) for every row
    python benchmarks/rows.py --work WORK --rows 100000

The annotation is written into WORK, and so are the tables made of it, so that nothing else of this user's is read.
Each start is a process of its own that does what `nota train tiny-samples` does until its first batch is there: `first`
reads the annotation, `again` maps what `first` kept. After the first batch, `again` reads as many rows as there are,
drawn as training draws them (their paths, questions and texts; no sound is decoded).

Memory is of the process that trains, in MB of 2**20 bytes: resident (`rss`), and of that what is no file's
(`anonymous`). `worker` is the process that decodes ahead, at its first batch.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SAMPLES = REPOSITORY / "checkpoints" / "tiny" / "samples"
WORDS = ["seven", "days", "of", "rain", "had", "made", "the", "river", "wide", "and", "slow"]
PARTS = 10
RECIPE = "tiny-samples"


def recordings() -> list[Path]:
    return sorted(path for path in SAMPLES.rglob("*") if path.suffix in (".wav", ".flac", ".ogg", ".opus"))


def generate(work: Path, rows: int, links: bool) -> tuple[Path, Path]:
    """The annotation, and the folder of its recordings."""
    root = work / ("links" if links else "files")
    annotation = work / f"rows-{rows}-{'links' if links else 'files'}.json"
    if annotation.exists():
        return annotation, root
    files = recordings()
    root.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, root / file.name)
    part = annotation.with_suffix(".part")
    with part.open("w", encoding="utf-8") as out:
        out.write('{"annotation": [\n')
        for number in range(rows):
            file = files[number % len(files)]
            name = file.name
            if links:  # as many to a copy of the file as a file system allows, and to a folder as is quick
                folder = root / f"{number // 1000:05d}"
                if number % 1000 == 0:
                    folder.mkdir(exist_ok=True)
                    for each in files:
                        shutil.copy(each, folder / each.name)
                name = f"{folder.name}/{number:07d}{file.suffix}"
                if not (root / name).exists():
                    os.link(folder / file.name, root / name)
            row = {
                "path": name,
                "text": f"{' '.join(WORDS[: 2 + number % 10])} number {number}",
                "task": "asr",
                "speaker": f"speaker-{number * 7919 % 2000:04d}",
            }
            out.write(("" if number == 0 else ",\n") + json.dumps(row))
        out.write("\n]}\n")
    part.rename(annotation)
    return annotation, root


def memory(process: str = "self") -> dict[str, float]:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":" in line)
    names = {"rss": "VmRSS", "anonymous": "RssAnon", "peak": "VmHWM"}
    return {name: round(int(lines[key].split()[0]) / 1024, 1) for name, key in names.items()}


def start(settings: list[str], epoch: bool) -> None:
    """What `nota train` does until the first batch, in this process; prints what it took."""
    started = float(os.environ["STARTED"])
    from nota_cli.imports import heavy_imports
    from nota_cli.recipe.load import load_recipe
    from nota_cli.recipe.sources import with_data_there

    recipe = with_data_there(load_recipe(RECIPE, settings), RECIPE)
    with heavy_imports():
        from accelerate import Accelerator
        from accelerate.utils import set_seed

        from nota_cli.data.row_batches import loader
        from nota_cli.training.trainer import Trainer
    imported = time.time() - started
    set_seed(recipe.train.seed)
    trainer = Trainer(recipe, Accelerator())
    order = list(range(recipe.train.steps * recipe.train.accumulation))
    trainer.fill_caches(order)
    stream = loader(trainer.batches, order, recipe.train.workers)
    batch = next(stream)
    seconds = time.time() - started
    figures = {
        "seconds_to_first_batch": round(seconds, 1),
        "seconds_of_imports": round(imported, 1),
        "processor_seconds": round(sum(os.times()[:4]), 1),
        "clips": len(batch.texts),
        **memory(),
        "worker": [memory(str(worker.pid)) for worker in multiprocessing.active_children()],
    }
    stream.close()
    if epoch:
        figures["epoch"] = read_epoch(trainer.batches)
    print(json.dumps(figures))


def read_epoch(batches: "TrainingBatches") -> dict[str, object]:  # noqa: F821 - imported late
    """Read as many rows as there are, in the order of training."""
    count = sum(len(corpus.rows) for corpus in batches.corpora)
    done, index, marks = 0, 0, [memory()]
    before = time.monotonic()
    while done < count:
        done += len(batches.answers(index))
        index += 1
        if done >= count * len(marks) / PARTS:
            marks.append(memory())
    return {
        "rows": done,
        "batches": index,
        "rows_per_second": round(done / (time.monotonic() - before)),
        "rss": [mark["rss"] for mark in marks],
        "anonymous": [mark["anonymous"] for mark in marks],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_600_000)
    parser.add_argument("--links", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--start", choices=["first", "again"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        start(options.settings, epoch=options.start == "again")
        return
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    annotation, root = generate(work, options.rows, options.links)
    settings = [
        f"data.train=[{{annotation: {annotation}, audio_root: {root}}}]",
        "data.validation=[]",
        "train.buckets=32",
        "train.batch_seconds=60",
        *options.settings,
    ]
    shutil.rmtree(work / "cache", ignore_errors=True)
    report: dict[str, object] = {"rows": options.rows, "annotation_mb": round(annotation.stat().st_size / 2**20)}
    for name in ("first", "again"):
        command = [sys.executable, __file__, "--work", str(work), "--start", name]
        command += [part for setting in settings for part in ("--set", setting)]
        environment = {**os.environ, "NOTA_CACHE": str(work / "cache"), "STARTED": str(time.time())}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        report[name] = json.loads(done.stdout)
    report["kept_mb"] = round(
        sum(file.stat().st_size for file in (work / "cache").rglob("*") if file.is_file()) / 2**20
    )
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
