"""What recipe `small` can do on recordings that it never trained on, as a Markdown table.

    python scripts/small_data.py --data data
    python benchmarks/small.py --out small-figures
    python benchmarks/small.py --out small-figures --limit 100 --beams 1 --sets l2-dev reader-dev
    python benchmarks/small.py --out small-figures --limit 100 --whisper --sets l2-dev reader-dev

Does what `nota infer` and `nota score` do, over the held-out sets that scripts/small_data.py writes to DATA/small;
the texts go to OUT as CSV files that `nota score` takes. `--whisper` lets Whisper tiny.en's own decoder
(transformers, greedy) answer instead: the bar. Every set's figures are printed as soon as they are there.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, WhisperForConditionalGeneration

from nota_cli.cli.options import pick_recipe
from nota_cli.data.annotation import Row, clip_paths, read_annotation
from nota_cli.data.audio.clip import load_clip
from nota_cli.data.corpora.esc10 import caption_label
from nota_cli.features.spectrograms import log_mel
from nota_cli.files import write_text
from nota_cli.generation.repetition import is_looped
from nota_cli.hub import local_path
from nota_cli.inference.predict import predict
from nota_cli.models.loading import load
from nota_cli.score.intervals import interval
from nota_cli.score.report import ScoreOptions, score_clips
from nota_cli.submission import write_submission

SETS = ("l2-dev", "reader-dev", "esc10-dev", "sounds-dev", "qa-dev")
SAMPLES = 1000  # bootstrap samples of the intervals
WHISPER = "openai/whisper-tiny.en"
Answer = Callable[[Sequence[Row]], list[str]]


def ours(checkpoint: str, data: Path, beams: int) -> Answer:
    """The recipe's model, as `nota infer` has it."""
    recipe = pick_recipe(checkpoint, None, [f"generate.tasks.asr.beams={beams}"])
    model = load(recipe, "cpu")
    return lambda rows: predict(model, rows, data, workers=0)


def whisper(data: Path) -> Answer:
    """Whisper tiny.en alone, greedy, on clips padded to 30 s as it was trained."""
    folder = local_path(WHISPER)
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    @torch.inference_mode()
    def answer(rows: Sequence[Row]) -> list[str]:
        texts = []
        for row in rows:
            mel = log_mel(torch.from_numpy(load_clip(clip_paths(row, data))), model.config.num_mel_bins)
            ids = model.generate(mel[None], num_beams=1, do_sample=False)
            texts.append(tokenizer.decode(ids[0], skip_special_tokens=True).strip().lower())
        return texts

    return answer


def share(hits: Sequence[bool]) -> str:
    """A share of clips in percent, with its interval."""
    bounds = interval([float(hit) for hit in hits], [1.0] * len(hits), SAMPLES)
    low, high = bounds if bounds is not None else (0.0, 1.0)
    return f"{100 * sum(hits) / len(hits):.1f}% [{100 * low:.1f}, {100 * high:.1f}] of {len(hits)}"


def sounds(texts: Sequence[str], rows: Sequence[Row], wordings: dict[str, set[str]]) -> dict[str, str]:
    """Share of captions that are right, instruments (whose label is a class) apart from effects."""
    hits = defaultdict(list)
    for text, row in zip(texts, rows, strict=True):
        kind = "instruments" if "instruments/" in row.path else "effects"
        hits[kind].append(text in wordings[row.label or ""])
    return {f"right caption, {kind}": share(found) for kind, found in hits.items()}


def kind_of(question: str) -> str:
    """Questions that ask the same of different things are of one kind."""
    return "Is there ...?" if question.startswith(("Is there", "Are there")) else question


def figures(name: str, texts: list[str], rows: list[Row], csv: Path, annotation: Path, data: Path) -> dict[str, str]:
    """What a set's texts are worth, by what is measured."""
    if name == "esc10-dev":
        found = {
            "right sound": share([caption_label(text) == row.label for text, row in zip(texts, rows, strict=True)])
        }
    elif name == "sounds-dev":
        wordings = defaultdict(set)
        for file in ("sounds-train", "sounds-dev"):
            for row in read_annotation(data / "small" / f"{file}.json"):
                wordings[row.label or ""].add((row.text or "").lower())
        found = sounds(texts, rows, wordings)
    elif name == "qa-dev":
        clips = score_clips(csv, annotation, "qa").clips
        right = defaultdict(list)
        for clip, row in zip(clips, rows, strict=True):
            right[kind_of(row.question or "")].append(clip.measures["exact_match"] == 1)
        found = {f"right answer, {kind}": share(hits) for kind, hits in sorted(right.items())}
    else:
        report = score_clips(csv, annotation, "asr", ScoreOptions(samples=SAMPLES)).report
        low, high = report["intervals"]["wer"]
        found = {"WER": f"{report['wer']:.1f}% [{low:.1f}, {high:.1f}], {report['reference_words']:,} words"}
    empty, looped = (100 * sum(map(test, texts)) / len(texts) for test in (lambda text: not text.strip(), is_looped))
    return found | {"empty, looped": f"{empty:.1f}%, {looped:.1f}%"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="small", help="recipe or checkpoint folder")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, required=True, help="folder for texts and table")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--limit", type=int, help="clips a set, evenly spread over it")
    parser.add_argument("--beams", type=int, default=4, help="of speech; sounds and questions are answered greedily")
    parser.add_argument("--whisper", action="store_true", help="Whisper's own decoder instead of the recipe")
    arguments = parser.parse_args()
    label = "whisper-tiny.en" if arguments.whisper else f"{Path(arguments.recipe).name}-beams{arguments.beams}"
    answer = whisper(arguments.data) if arguments.whisper else ours(arguments.recipe, arguments.data, arguments.beams)
    lines = ["| set | clips | figure | value | seconds |", "|---|---|---|---|---|"]
    for name in arguments.sets:
        whole = json.loads((arguments.data / "small" / f"{name}.json").read_text(encoding="utf-8"))["annotation"]
        step = max(1, -(-len(whole) // arguments.limit)) if arguments.limit else 1
        stem = f"{label}-{name}" + (f"-{arguments.limit}" if arguments.limit else "")
        annotation, csv = (arguments.out / f"{stem}{suffix}" for suffix in (".json", ".csv"))
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_text(annotation, json.dumps({"annotation": whole[::step][: arguments.limit]}))
        rows = read_annotation(annotation)
        started = time.monotonic()
        texts = answer(rows)
        seconds = time.monotonic() - started
        write_submission(csv, [(row.id or "", text) for row, text in zip(rows, texts, strict=True)])
        for figure, value in figures(name, texts, rows, csv, annotation, arguments.data).items():
            lines.append(f"| {name} | {len(rows)} | {figure} | {value} | {seconds:.0f} |")
            print(lines[-1], flush=True)
    write_text(arguments.out / f"{label}{f'-{arguments.limit}' if arguments.limit else ''}.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
