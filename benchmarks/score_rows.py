"""CPU time to score 7,294 captions, the test set's size, as `nota score` does. Prints one line of JSON.

    python benchmarks/score_rows.py                                  # made-up captions of 8 to 12 words
    python benchmarks/score_rows.py --captions audiocaps/test.csv    # AudioCaps, repeated to that size

Counted: reading both files, WER, CIDEr-D and 1,000 bootstrap samples. Not counted: imports, and what the normalizer
makes once. The process must not have torch in it.
"""

import argparse
import csv
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from nota_cli.score.report import ScoreOptions, score_clips
from nota_cli.score.wer import word_edits, words
from nota_cli.submission import write_submission

WORDS = {
    "noun": "dog car rain man engine bird bell woman child crowd door train wind water music horn cat siren clock drum",
    "verb": "barks passes falls speaks runs sings rings laughs cries cheers closes rattles blows drips plays hums",
    "rest": "nearby far away in the street behind a wall while people talk as others join in at 10 o'clock",
}
NOUNS, VERBS, PLACES = (line.split() for line in WORDS.values())


def made_up(rows: int) -> list[tuple[str, str]]:
    """Pairs of captions, each with words of its own, so that no row is as cheap as one that was seen before."""
    draw = random.Random(0)

    def caption() -> str:
        first = f"A {draw.choice(NOUNS)}{draw.randrange(400)} {draw.choice(VERBS)} {draw.choice(NOUNS)}"
        return " ".join([first, *draw.sample(PLACES, draw.randint(4, 8))])

    return [(caption(), caption()) for _ in range(rows)]


def captions_of(path: Path, rows: int) -> list[tuple[str, str]]:
    """The first two captions of every clip of an AudioCaps CSV, from the beginning again until there are so many."""
    clips: dict[str, list[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            clips.setdefault(row["youtube_id"], []).append(row["caption"])
    pairs = [(texts[0], texts[1]) for _, texts in sorted(clips.items())]
    return (pairs * (rows // len(pairs) + 1))[:rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, help="AudioCaps' test.csv")
    parser.add_argument("--rows", type=int, default=7294)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    pairs = captions_of(given.captions, given.rows) if given.captions else made_up(given.rows)
    word_edits(words("a dog"), words("a cat"))  # late imports
    result: dict[str, object] = {"rows": len(pairs)}
    with tempfile.TemporaryDirectory() as folder:
        csv_path, annotation = Path(folder) / "s.csv", Path(folder) / "a.json"
        write_submission(csv_path, [(f"test{i:04d}", said) for i, (said, _) in enumerate(pairs)])
        for task, name in (("asr", "asr"), ("aac", "audiocaption_v2")):
            rows = [{"path": "x.wav", "text": right, "task": name} for _, right in pairs]
            annotation.write_text(json.dumps({"annotation": rows}), encoding="utf-8")
            seconds = []
            for _ in range(given.rounds):
                start = time.process_time()
                report = score_clips(csv_path, annotation, task, ScoreOptions(samples=1000)).report
                seconds.append(round(time.process_time() - start, 3))
            result[f"{task}_cpu_s"] = sorted(seconds)[len(seconds) // 2]
            result[f"{task}_printed"] = report["printed"]
    result["torch_imported"] = "torch" in sys.modules
    print(json.dumps(result))


if __name__ == "__main__":
    main()
