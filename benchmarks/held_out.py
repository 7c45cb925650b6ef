"""How well a checkpoint does on recordings it never trained on: WER on digit strings, rate of right captions.

    python benchmarks/held_out.py --checkpoint checkpoints/tiny

Wants what `nota prepare` writes (data/fsdd-dev.json, data/esc10-dev.json). Runs `nota infer` as a user does and ends
with one JSON line.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from nota_cli.data.annotation import read_annotation
from nota_cli.data.prepare import caption_accuracy_of_csv, caption_label
from nota_cli.score.report import score_submission
from nota_cli.score.wer import wer_as_written
from nota_cli.submission import read_records


def infer(checkpoint: Path, annotation: Path, root: Path, task: str, out: Path) -> dict[str, str]:
    command = [sys.executable, "-m", "nota_cli.cli", "infer", "--task", task, "--checkpoint", str(checkpoint)]
    command += ["--annotation", str(annotation), "--audio-root", str(root), "--out", str(out)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    records, _ = read_records(out)
    return {record.fields[0]: record.fields[1] for record in records[1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/tiny"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    digits, sounds = arguments.data / "fsdd-dev.json", arguments.data / "esc10-dev.json"
    with tempfile.TemporaryDirectory() as scratch:
        asr, aac = Path(scratch) / "asr.csv", Path(scratch) / "aac.csv"
        heard = infer(arguments.checkpoint, digits, arguments.data / "fsdd", "asr", asr)
        captions = infer(arguments.checkpoint, sounds, arguments.data / "esc10", "aac", aac)
        report = score_submission(asr, digits, "asr")
        right = caption_accuracy_of_csv(aac, sounds)
        cider = score_submission(aac, sounds, "aac")["cider_d_x100"]
    rows = read_annotation(digits)
    pairs = {row.id: (heard[row.id or ""], row.text or "", row.speaker or "") for row in rows}
    speakers = {}
    for speaker in sorted({speaker for _, _, speaker in pairs.values()}):
        own = [(hypothesis, said) for hypothesis, said, who in pairs.values() if who == speaker]
        speakers[speaker] = round(100 * wer_as_written(own), 2)
    wrong = {
        row.id: [row.label, captions[row.id or ""]]
        for row in read_annotation(sounds)
        if caption_label(captions[row.id or ""]) != row.label
    }
    for row_id, (label, caption) in wrong.items():
        print(f"{row_id}: {label}: {caption}", file=sys.stderr)
    result = {
        "checkpoint": str(arguments.checkpoint),
        "digit_strings": len(rows),
        "wer_as_written": round(100 * wer_as_written([pair[:2] for pair in pairs.values()]), 2),
        "wer_as_written_by_speaker": speakers,
        "wer_organisers": round(report["wer"], 2),
        "captions": len(captions),
        "right_captions": round(100 * right, 2),
        "cider_d_x100": round(cider, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
