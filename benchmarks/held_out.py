"""How well a checkpoint does on recordings it never trained on: WER on digit strings, rate of right captions.

    python benchmarks/held_out.py --checkpoint checkpoints/tiny

Wants what `nota prepare` writes (data/fsdd-dev.json, data/esc10-dev.json). Does what `nota infer` and `nota score` do,
and ends with one JSON line.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from nota_cli.cli.options import pick_recipe
from nota_cli.data.annotation import read_annotation
from nota_cli.data.corpora.esc10 import caption_accuracy_of_csv, caption_label
from nota_cli.inference.predict import predict
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.models.loading import load
from nota_cli.score.report import score_submission
from nota_cli.score.wer import wer_as_written
from nota_cli.submission import write_submission

SETS = {"asr": "fsdd", "aac": "esc10"}


def texts_of(model: Salmonn, data: Path) -> dict[str, dict[str, str]]:
    """What the model says of the held-out digit strings ("asr") and sounds ("aac"), by testset_id."""
    texts = {}
    for task, name in SETS.items():
        rows = read_annotation(data / f"{name}-dev.json")
        answers = predict(model, rows, data / name, workers=0)
        texts[task] = {row.id or "": text for row, text in zip(rows, answers, strict=True)}
    return texts


def figures(texts: dict[str, dict[str, str]], data: Path) -> dict[str, Any]:
    """WER both ways, also by speaker, right captions and CIDEr-D x 100, in percent."""
    digits, sounds = data / "fsdd-dev.json", data / "esc10-dev.json"
    with tempfile.TemporaryDirectory() as scratch:
        csv = {task: Path(scratch) / f"{task}.csv" for task in SETS}
        for task, answers in texts.items():
            write_submission(csv[task], list(answers.items()))
        report = score_submission(csv["asr"], digits, "asr")
        right = caption_accuracy_of_csv(csv["aac"], sounds)
        cider = score_submission(csv["aac"], sounds, "aac")["cider_d_x100"]
    rows = read_annotation(digits)
    pairs = [(texts["asr"][row.id or ""], row.text or "", row.speaker or "") for row in rows]
    speakers = {}
    for speaker in sorted({speaker for _, _, speaker in pairs}):
        own = [(hypothesis, said) for hypothesis, said, who in pairs if who == speaker]
        speakers[speaker] = round(100 * wer_as_written(own), 2)
    return {
        "digit_strings": len(rows),
        "wer_as_written": round(100 * wer_as_written([pair[:2] for pair in pairs]), 2),
        "wer_as_written_by_speaker": speakers,
        "wer_organisers": round(report["wer"], 2),
        "captions": len(texts["aac"]),
        "right_captions": round(100 * right, 2),
        "cider_d_x100": round(cider, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/tiny"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    texts = texts_of(load(pick_recipe(None, arguments.checkpoint, None), "cpu"), arguments.data)
    for row in read_annotation(arguments.data / "esc10-dev.json"):
        caption = texts["aac"][row.id or ""]
        if caption_label(caption) != row.label:
            print(f"{row.id}: {row.label}: {caption}", file=sys.stderr)
    print(json.dumps({"checkpoint": str(arguments.checkpoint), **figures(texts, arguments.data)}))


if __name__ == "__main__":
    main()
