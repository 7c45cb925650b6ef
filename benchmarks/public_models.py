"""Public models beside `small` on the same held-out clips, and their texts against transformers' own generation.

    python scripts/small_data.py --data data
    python benchmarks/public_models.py --out public-figures --limit 50 --recipes whisper-tiny.en whisper-base small

For each recipe: word error rate with its 95% interval, clips a second, and, for recipes of the family `transformers`,
how many texts are those that transformers gives of the same clips one by one, greedy, at batch 1 and at batch 8.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

from nota_cli.data.annotation import Row, clip_paths, read_annotation
from nota_cli.data.audio.clip import load_clip
from nota_cli.features.constants import SAMPLE_RATE
from nota_cli.files import write_text
from nota_cli.hub import local_path
from nota_cli.inference.predict import predict
from nota_cli.models.loading import load
from nota_cli.recipe.load import load_system
from nota_cli.recipe.public import PublicRecipe
from nota_cli.score.report import ScoreOptions, score_clips
from nota_cli.submission import write_submission

SAMPLES = 1000  # bootstrap samples of the intervals


@torch.inference_mode()
def own_texts(recipe: PublicRecipe, rows: list[Row], data: Path) -> list[str]:
    """transformers alone, greedy, one clip after the other."""
    folder = local_path(recipe.model.path)
    model: Any = AutoModelForSpeechSeq2Seq.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    texts = []
    for row in rows:
        wave = load_clip(clip_paths(row, data))
        inputs = processor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True)
        ids = model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=200, **recipe.model.options)
        texts.append(processor.batch_decode(ids, skip_special_tokens=True)[0].strip().lower())
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, required=True, help="folder for texts and table")
    parser.add_argument("--set", default="l2-dev", help="annotation in DATA/small")
    parser.add_argument("--limit", type=int, default=50, help="clips, evenly spread over the set")
    parser.add_argument("--recipes", nargs="+", default=["whisper-tiny.en", "whisper-base", "small"])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    whole = json.loads((arguments.data / "small" / f"{arguments.set}.json").read_text(encoding="utf-8"))["annotation"]
    step = max(1, len(whole) // arguments.limit)
    annotation = arguments.out / f"{arguments.set}-{arguments.limit}.json"
    write_text(annotation, json.dumps({"annotation": whole[::step][: arguments.limit]}))
    rows = read_annotation(annotation)
    print(
        "| recipe | WER [95%] | clips/s | as transformers alone, batch 1 | batch 8 |\n|---|---|---|---|---|", flush=True
    )
    for name in arguments.recipes:
        recipe = load_system(name)
        model = load(recipe, "cpu")
        started = time.monotonic()
        texts = predict(model, rows, arguments.data, workers=0, batch_size=8)
        speed = len(rows) / (time.monotonic() - started)
        csv = arguments.out / f"{name}-{arguments.set}-{arguments.limit}.csv"
        write_submission(csv, [(row.id or "", text) for row, text in zip(rows, texts, strict=True)])
        report = score_clips(csv, annotation, "asr", ScoreOptions(samples=SAMPLES)).report
        low, high = report["intervals"]["wer"]
        same = ["", ""]
        if isinstance(recipe, PublicRecipe):
            alone = own_texts(recipe, rows, arguments.data)
            single = predict(model, rows, arguments.data, workers=0, batch_size=1)
            same = [f"{sum(map(str.__eq__, own, alone))} of {len(rows)}" for own in (single, texts)]
        print(
            f"| {name} | {report['wer']:.1f}% [{low:.1f}, {high:.1f}] | {speed:.2f} | {same[0]} | {same[1]} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
