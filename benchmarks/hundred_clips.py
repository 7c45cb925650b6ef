"""How long 100 mixed held-out clips (50 digit strings, 50 sounds of 5 s) take after loading.

    python benchmarks/hundred_clips.py --checkpoint checkpoints/tiny

Wants what `nota prepare` writes. Ends with one JSON line: seconds are the median of three runs over all clips.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from nota_cli.data.annotation import Row, read_annotation
from nota_cli.inference.predict import predict
from nota_cli.models.loading import load
from nota_cli.recipe.load import load_recipe


def rows_of(annotation: Path, root: Path, count: int) -> list[Row]:
    rows = read_annotation(annotation)[:count]
    return [
        replace(row, path=str(root / row.path), expand=tuple(str(root / name) for name in row.expand)) for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/tiny"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    rows = rows_of(data / "fsdd-dev.json", data / "fsdd", 50) + rows_of(data / "esc10-dev.json", data / "esc10", 50)
    recipe = load_recipe(str(arguments.checkpoint))
    model = load(recipe.model_copy(update={"checkpoint": str(arguments.checkpoint)}), "cpu")
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        predict(model, rows, "/", workers=1)
        seconds.append(time.perf_counter() - started)
    result = {
        "clips": len(rows),
        "seconds": round(statistics.median(seconds), 2),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "beams": recipe.generate.beams,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
