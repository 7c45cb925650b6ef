"""What each way to make the shipped model smaller does to what it says of recordings it never trained on.

    python benchmarks/levers.py --markdown table.md
    python benchmarks/levers.py --trained "two decoder layers, trained again=runs/dec" --together runs/dec

Wants what `nota prepare` writes. Every row is the shipped model with one change, made by the command or the recipe
value that a user has for it, on the 300 digit strings and 80 sounds of held_out.py. The JSON line at the end also says
for how many answers the tokens themselves differ; where trimming or merging should change none and does, the status
is 1.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from held_out import figures, texts_of
from transformers import AutoConfig, AutoModelForCausalLM

from nota_cli.cli.options import pick_recipe
from nota_cli.cli.prune_layers import run_prune_layers
from nota_cli.cli.prune_vocabulary import run_prune_vocabulary
from nota_cli.compression.merge import merge_checkpoint
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.models.loading import load
from nota_cli.quantization.gptq import load_gptq_decoder
from nota_cli.quantization.weight_only import PackedLinear, repack_gptq
from nota_cli.recipe.load import dump_recipe, load_recipe

HEAL = Path(__file__).resolve().parent / "heal.yaml"
SHIPPED, TRIMMED = "as shipped", "`nota prune-vocabulary`"
DENSE, MERGED = "decoder unpacked to float32, adapters beside it", "the same after `nota merge-lora`"
INT8 = ["speech_encoder.quantization=int8", "audio_encoder.quantization=int8"]
CLIPS = 64  # that the influence of layers is measured on, as for the trained rows


@dataclass(frozen=True)
class Said:
    """What a model says: by task and testset_id the text, the answers' tokens in order, and MB of its weights."""

    texts: dict[str, dict[str, str]]
    tokens: list[list[int]]
    megabytes: float


class Levers:
    """The rows: a name, and what gives the checkpoint folder and the `--set` values that it stands for."""

    def __init__(self, checkpoint: Path, data: Path, scratch: Path) -> None:
        self.checkpoint, self.data, self.scratch = checkpoint, data, scratch

    def rows(self) -> Iterator[tuple[str, Callable[[], tuple[Path, list[str]]]]]:
        def set_(*settings: str) -> Callable[[], tuple[Path, list[str]]]:
            return lambda: (self.checkpoint, list(settings))

        yield SHIPPED, set_()
        for dtype in ("bfloat16", "float16"):
            yield f"encoders `dtype: {dtype}`", set_(f"speech_encoder.dtype={dtype}", f"audio_encoder.dtype={dtype}")
        yield "encoders `quantization: int8`", set_(*INT8)
        yield "encoders `quantization: int4`", set_(*(setting.replace("int8", "int4") for setting in INT8))
        for kernel in ("torch", "int4pack"):
            yield f"`decoder.kernel: {kernel}`", set_(f"decoder.kernel={kernel}")
        half = "decoder.dtype=bfloat16"
        yield "`decoder.dtype: bfloat16`, kernel `blockwise`", set_(half, "decoder.kernel=blockwise")
        yield "`decoder.dtype: bfloat16`, kernel `int4pack`", set_(half, "decoder.kernel=int4pack")
        yield "`generate.decoding: plain` (the other rows: `auto`)", set_("generate.decoding=plain")
        yield TRIMMED, lambda: (self.trimmed(self.checkpoint), [])
        yield DENSE, lambda: (self.dense(), ["generate.merge_lora=never"])
        yield MERGED, lambda: (self.merged(), [])
        yield "`audio.pad: 30s`, not trained for it", set_("audio.pad=30s")
        for name, keep in (
            ("3 of 4 speech encoder layers", {"speech_encoder": 3}),
            ("2 of 3 audio encoder layers", {"audio_encoder": 2}),
            ("3 of 4 and 2 of 3 encoder layers", {"speech_encoder": 3, "audio_encoder": 2}),
            ("2 of 3 decoder layers", {"decoder": 2}),
        ):
            yield f"`nota prune-layers`: {name}, not healed", lambda keep=keep: (self.pruned(keep), [])

    def together(self, base: Path) -> tuple[Path, list[str]]:
        return self.trimmed(base), [*INT8, "decoder.kernel=int4pack"]

    def trimmed(self, checkpoint: Path) -> Path:
        out = self._folder()
        trained = [self.data / f"{name}-train.json" for name in ("fsdd", "esc10")]
        for row in run_prune_vocabulary(str(checkpoint), out, trained, [], [], 1):
            print("   ", *row, sep="  ", file=sys.stderr)
        return out

    def pruned(self, keep: dict[str, int]) -> Path:
        out = self._folder()
        run_prune_layers(self.checkpoint, out, dict(keep), "similarity", load_recipe(str(HEAL)).data, CLIPS)
        return out

    def dense(self) -> Path:
        """The checkpoint with the very weights that its 4-bit layers stand for, in float32."""
        out = self.scratch / "dense"
        if out.exists():
            return out
        shutil.copytree(self.checkpoint, out)
        base = load_gptq_decoder(self.checkpoint / "decoder")
        repack_gptq(base, "blockwise")
        state = base.state_dict()
        layers = {name: layer for name, layer in base.named_modules() if isinstance(layer, PackedLinear)}
        for name, layer in layers.items():
            state = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
            state[f"{name}.weight"] = layer.dequantize()
        config = AutoConfig.from_pretrained(self.checkpoint / "decoder")
        del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config)
        plain.load_state_dict(state)
        for name in ("quantize_config.json", "model.safetensors"):
            (out / "decoder" / name).unlink()
        plain.save_pretrained(out / "decoder")
        recipe = load_recipe(str(self.checkpoint))
        decoder = recipe.decoder.model_copy(update={"path": "./decoder", "quantization": "none"})
        (out / "recipe.yaml").write_text(dump_recipe(recipe.model_copy(update={"decoder": decoder})))
        return out

    def merged(self) -> Path:
        out = self._folder()
        merge_checkpoint(self.dense(), out)
        return out

    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.scratch)) / "made"


@contextmanager
def recorded(model: Salmonn) -> Iterator[list[list[int]]]:
    """The tokens of every answer that the model turns into text meanwhile."""
    tokenizer, seen = model.decoder.tokenizer, []
    decode = tokenizer.decode

    def note(ids: list[int], *rest: Any, **more: Any) -> str:
        seen.append(list(ids))
        return decode(ids, *rest, **more)

    tokenizer.decode = note
    yield seen
    tokenizer.decode = decode


def hear(checkpoint: Path, settings: list[str], data: Path) -> Said:
    """Load as `nota infer --checkpoint --set` does, and hear all held-out clips."""
    model = load(pick_recipe(None, checkpoint, settings), "cpu")
    with recorded(model) as tokens:
        texts = texts_of(model, data)
    mapping = checkpoint / "decoder" / "vocabulary.json"
    if mapping.is_file():
        old = json.loads(mapping.read_text())["old_ids"]
        tokens = [[old[token] for token in answer] for answer in tokens]
    return Said(texts, tokens, sum(part.bytes for part in model.parts()) / 1e6)


def compare(said: Said, other: Said) -> dict[str, int]:
    pairs = [(said.texts[task][name], text) for task in other.texts for name, text in other.texts[task].items()]
    answers = zip(said.tokens, other.tokens, strict=True)
    return {
        "texts_that_differ": sum(one != two for one, two in pairs),
        "tokens_that_differ": sum(one != two for one, two in answers),
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| | MB of weights | WER, as written | WER, organisers' | right sound | texts that differ |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        percent = " | ".join(f"{row[key]:.2f}%" for key in ("wer_as_written", "wer_organisers", "right_captions"))
        lines.append(f"| {row['name']} | {row['megabytes']:.2f} | {percent} | {row['texts_that_differ']} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/tiny"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--trained", action="append", default=[], metavar="NAME=FOLDER", help="a further row")
    parser.add_argument("--together", type=Path, help="what all levers together start from, else the checkpoint")
    parser.add_argument("--only", action="append", help="only rows whose name holds this; repeatable")
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    arguments = parser.parse_args()
    wrong = [one for one in arguments.trained if not (Path(one.rpartition("=")[2]) / "recipe.yaml").is_file()]
    if wrong:
        parser.error(f"--trained {', '.join(wrong)}: write NAME=FOLDER, the folder a checkpoint")
    done: dict[str, Said] = {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        levers = Levers(arguments.checkpoint, arguments.data, Path(scratch))
        wanted = list(levers.rows())
        for one in arguments.trained:
            name, _, folder = one.rpartition("=")
            wanted.append((name, lambda folder=folder: (Path(folder), [])))
        base = arguments.together or arguments.checkpoint
        also = f", from {base.name}" if arguments.together else ""
        wanted.append((f"encoders int8, vocabulary trimmed, `int4pack`{also}", lambda: levers.together(base)))
        for name, make in wanted:
            if arguments.only and name != SHIPPED and not any(part in name for part in arguments.only):
                continue
            started = time.monotonic()
            done[name] = said = hear(*make(), arguments.data)
            row = {"name": name, "megabytes": round(said.megabytes, 3), **figures(said.texts, arguments.data)}
            rows.append({**row, **compare(said, done[SHIPPED])})
            print(table(rows[-1:]).splitlines()[-1], f"{time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    pairs = [(one, two) for one, two in ((SHIPPED, TRIMMED), (DENSE, MERGED)) if {one, two} <= set(done)]
    exact = {two: compare(done[two], done[one]) for one, two in pairs}
    if arguments.markdown:
        arguments.markdown.write_text(table(rows))
    print(json.dumps({"checkpoint": str(arguments.checkpoint), "rows": rows, "exact": exact}))
    return int(any(count for counts in exact.values() for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
