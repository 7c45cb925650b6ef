"""What the commands that make a model smaller do, step by step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nota_cli.data.annotation import Row, read_annotation
from nota_cli.data.batches import RowBatches, TrainingBatches, in_order, loader
from nota_cli.errors import RecipeError, UsageError
from nota_cli.files import check_writable
from nota_cli.guards import check_checkpoint, check_new_folder
from nota_cli.inference import feature_spec
from nota_cli.model.build import build
from nota_cli.model.checkpoint import WEIGHTS, save_checkpoint
from nota_cli.outputs import Input
from nota_cli.recipe.inputs import recipe_inputs
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Augment, Data, Recipe


def run_quantize(recipe: Recipe, out: Path, bits: int, group_size: int, clips: int) -> list[list[str]]:
    """The recipe's full-precision checkpoint to one with a GPTQ decoder; returns the table of layers."""
    from nota_cli.compress.gptq import quantize_to_folder

    if not recipe.data.train:
        raise RecipeError("calibration needs audio: name a recipe with training data by --recipe")
    check_checkpoint(out, recipe)
    check_writable(out / "recipe.yaml")
    model = build(recipe, pack=False)
    spec = recipe.train
    batches = TrainingBatches(recipe.data.train, feature_spec(model), Augment(), 16, spec.seed + 1)
    calibration = []
    with torch.no_grad():
        for batch in loader(batches, range(-(-clips // 16)), spec.workers):
            embeds, mask = model.answer_embeds(batch.features, batch.queries, batch.texts)
            calibration.append({"inputs_embeds": embeds, "attention_mask": mask})
    report = quantize_to_folder(
        model.decoder.base, model.decoder.tokenizer, calibration, out / "decoder", bits=bits, group_size=group_size
    )
    decoder = recipe.decoder.model_copy(
        update={
            "path": str(out / "decoder"),
            "config": None,
            "tokenizer": None,
            "train": False,
            "quantisation": "gptq",
        }
    )
    model.recipe = model.recipe.model_copy(update={"decoder": decoder})  # the adapter's own rank and alpha in it
    save_checkpoint(model, out)
    return [[layer.name, f"{layer.rounding_error:.4f}", f"{layer.error:.4f}"] for layer in report.layers]


def run_prune_vocabulary(
    source: str,
    out: Path,
    annotations: Sequence[Path],
    files: Sequence[Path],
    keep: Sequence[str],
    multiple: int,
    size: int | None = None,
) -> list[list[str]]:
    """A checkpoint folder or a recipe's decoder to one with fewer tokens; returns the table of what became smaller."""
    from nota_cli.compress.vocabulary import prune_checkpoint, prune_recipe

    recipe = load_recipe(source)
    data = recipe.data
    if not (annotations or files):
        annotations = [Path(part.annotation) for part in (*data.train, *data.validation, *data.test.values())]
    if not (annotations or files):
        raise UsageError(f"{source} names no data: say which texts count by --annotation or --texts")
    read = [Input("a text file", path) for path in files] + [Input("an annotation", path) for path in annotations]
    check_new_folder(out, source, [*recipe_inputs(recipe), *read])
    rows = [row for annotation in annotations for row in read_annotation(annotation)]
    texts = [text for row in rows for text in (row.text, *row.texts) if text]
    for file in files:
        try:
            texts += file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--texts {file}: not a text file in UTF-8 ({error})") from error
    questions = [row.question for row in rows if row.question]
    folder = Path(source)
    is_checkpoint = (folder / WEIGHTS).is_file() and (folder / "recipe.yaml").is_file()
    options: Any = {"questions": questions, "keep": keep, "multiple": multiple, "size": size}
    if is_checkpoint:
        report = prune_checkpoint(folder, out, texts, **options)
    else:
        report = prune_recipe(recipe, out, texts, **options)
    megabytes = [f"{size / 1e6:,.1f}" for size in (report.bytes_before, report.bytes_after)]
    length = report.length
    growth, kept = length.after / max(length.before, 1) - 1, length.kept / max(length.before, 1)
    return [
        ["tokens", f"{report.before:,}", f"{report.after:,}"],
        ["MB of the decoder", *megabytes],
        ["the texts in tokens", f"{length.before:,}", f"{length.after:,} ({growth:+.1%})"],
        ["of these still one token each", "", f"{length.kept:,} ({kept:.1%})"],
    ]


def run_prune_layers(
    checkpoint: Path, out: Path, numbers: dict[str, int | None], strategy: str, data: Data | None, clips: int
) -> list[list[str]]:
    """A checkpoint folder to one with fewer layers; returns the table of the parts."""
    from nota_cli.compress.layers import choose, layer_counts, prune_layers

    wanted = {part: number for part, number in numbers.items() if number is not None}
    if not wanted:
        raise UsageError("say how many layers stay, for example --speech-encoder 3")
    check_new_folder(out, checkpoint, recipe_inputs(load_recipe(str(checkpoint))))
    scores: dict[str, list[float]] = {}
    if strategy == "similarity":
        scores = _influence(checkpoint, data, clips)
    totals = {part: len(values) for part, values in scores.items()} or layer_counts(checkpoint)
    absent = [part for part in wanted if part not in totals]
    if absent:
        raise UsageError(f"no part {', '.join(absent)} in {checkpoint}; there are: {', '.join(totals)}")
    keep = {part: choose(totals[part], number, strategy, scores.get(part)) for part, number in wanted.items()}
    return [
        [
            part.part,
            f"{len(part.kept)} of {part.total}",
            " ".join(map(str, part.kept)),
            f"{part.bytes_before / 1e6:,.2f}",
            f"{part.bytes_after / 1e6:,.2f}",
        ]
        for part in prune_layers(checkpoint, out, keep).parts
    ]


def _influence(checkpoint: Path, data: Data | None, clips: int) -> dict[str, list[float]]:
    """How much each layer changes what goes through it, over clips drawn evenly from all of a recipe's sources."""
    from nota_cli.compress.layers import block_influence

    sources = [] if data is None else [*data.train, *data.test.values()]
    if not sources:
        raise UsageError("--strategy similarity needs clips: name a recipe with training or test data by --recipe")
    model = build(load_recipe(str(checkpoint)).model_copy(update={"checkpoint": str(checkpoint)}))
    share = -(-clips // len(sources))
    found: list[dict[str, list[float]]] = []
    for source in sources:
        rows: Sequence[Row] = read_annotation(source.annotation)[:share]
        batch = RowBatches(rows, in_order(len(rows), share), source.audio_root, feature_spec(model))[0]
        found.append(block_influence(model, batch.features, batch.queries))
    return {part: torch.tensor([one[part] for one in found]).mean(0).tolist() for part in found[0]}
