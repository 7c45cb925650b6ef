"""How fast training is on real recordings, as a Markdown table.

    python scripts/small_data.py --data data
    python benchmarks/training.py --data data cache --recipe small-decoder --steps 20
    python benchmarks/training.py --data data cache --recipe small-connector --steps 20
    python benchmarks/training.py --data data buckets --recipe small-connector --steps 20

Every way is measured in the same run and on the same clips, one after the other; the first step of each is not
counted. `cache` trains with the encoders' states kept on disk and without; `buckets` with batches of alike length
and with random ones. Sources are taken as they are, without joining, cutting or mixing, as the cache needs it.
"""

import argparse
import tempfile
import time
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed

from nota_cli.data.row_batches import loader
from nota_cli.models.families.salmonn_build import train_mode
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Recipe
from nota_cli.training.log import Pace
from nota_cli.training.trainer import Trainer

CHANGES = ("speed", "gain_db", "noise", "tone", "mask_time", "mask_frequency")
SOURCES = ("l2-train", "books-train", "digits-train", "esc10-train", "sounds-train", "qa-train")


def prepared(name: str, data: Path, settings: list[str]) -> Recipe:
    """A recipe on the sources that are there, unchanged clips, weights as published."""
    there = [data / "small" / f"{source}.json" for source in SOURCES if (data / "small" / f"{source}.json").is_file()]
    speech = [file for file in there if file.stem in ("l2-train", "books-train", "digits-train")]
    chosen = speech if name == "small-connector" else there
    sources = ", ".join(f"{{annotation: {file}, audio_root: {data}}}" for file in chosen)
    fixed = [
        f"data.train=[{sources}]",
        "data.validation=[]",
        "train.init=null",
        *(f"train.augment.{name}=0" for name in CHANGES),
    ]
    return load_recipe(name, [*fixed, *settings])


def measure(recipe: Recipe, steps: int) -> tuple[dict[str, float], list[float], float]:
    """Figures of all steps but the first, every step's loss, and the seconds before the first step."""
    started = time.monotonic()
    set_seed(recipe.train.seed)
    trainer = Trainer(recipe, Accelerator())
    order = list(range((steps + 1) * recipe.train.accumulation))
    filled = time.monotonic()
    trainer.fill_caches(order)
    before = time.monotonic() - filled
    print(f"  model and data in {filled - started:.0f} s, states in {before:.0f} s", flush=True)
    batches = loader(trainer.batches, order, recipe.train.workers)
    train_mode(trainer.model)
    losses = []
    pace = Pace(1)
    for step in range(steps + 1):
        done = trainer.step(step, batches)
        losses.append(sum(done.losses.values()))
        if step == 0:
            pace = Pace(1)
        else:
            pace.add(done)
    summary = pace.summary()
    return {**summary, "steps_per_second": summary["steps"] / max(summary["seconds"], 1e-9)}, losses, before


def report(name: str, figures: dict[str, float], losses: list[float], base: dict[str, float]) -> str:
    ratio = figures["clips_per_second"] / base["clips_per_second"]
    return (
        f"| {name} | {figures['steps_per_second']:.2f} | {figures['clips_per_second']:.1f} | "
        f"{figures['audio_seconds_per_second']:.0f} | {100 * figures['data_wait']:.0f} % | {ratio:.2f} | "
        f"{losses[0]:.4f} ... {losses[-1]:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("what", choices=["cache", "buckets", "both"])
    parser.add_argument("--recipe", default="small-connector")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    options = parser.parse_args()
    fixed = [f"train.batch_size={options.batch_size}", *options.settings]
    buckets = ["train.buckets=32"]
    with tempfile.TemporaryDirectory() as folder:
        cache = [f"train.cache={folder}"]
        ways = {"plain": []} | {
            "cache": {"cache": cache},
            "buckets": {"buckets": buckets},
            "both": {"buckets": buckets, "cache and buckets": [*cache, *buckets]},
        }[options.what]
        rows, base, first_losses = [], {}, []
        for name, settings in ways.items():
            print(f"{name} ...", flush=True)
            recipe = prepared(options.recipe, options.data.absolute(), [*fixed, *settings])
            figures, losses, _ = measure(recipe, options.steps)
            base = base or figures
            first_losses = first_losses or losses
            rows.append(report(name, figures, losses, base))
            if options.what == "cache":
                most = max(abs(a - b) / abs(b) for a, b in zip(losses, first_losses, strict=True))
                print(f"  largest relative difference of a loss: {most:.2e}", flush=True)
    print(f"\n{options.recipe}, batches of {options.batch_size}, {options.steps} steps\n")
    print("| way | steps/s | clips/s | audio s/s | waiting for data | times plain | loss, first and last step |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
