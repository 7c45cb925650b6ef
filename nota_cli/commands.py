"""What `nota infer` and `nota quantize` do, step by step; the other commands are one call each."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from nota_cli.console import progress, say, warn
from nota_cli.data.annotation import FAMILY_TASK, Row, missing_files, read_annotation, row_id
from nota_cli.data.batches import TrainingBatches, loader
from nota_cli.errors import DataError, RecipeError, UsageError, listing
from nota_cli.files import check_writable
from nota_cli.inference import feature_spec, predict
from nota_cli.model.audio_lm import AudioLM
from nota_cli.model.build import build
from nota_cli.model.checkpoint import save_checkpoint
from nota_cli.prompts import Query, wrap
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Augment, Recipe
from nota_cli.submission import write_submission


def pick_device(name: str) -> str:
    """`auto` takes CUDA where there is one.

    Raises:
        UsageError: the device is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: torch finds {torch.cuda.device_count()} CUDA devices here; try --device cpu"
        )
    return name


def run_infer(
    task: str | None,
    recipe: Recipe,
    annotation: Path | None,
    audio_root: Path | None,
    out: Path | None,
    limit: int | None,
    device: str,
    workers: int,
) -> dict[str, object]:
    """Annotation to CSV; returns what the summary table shows."""
    annotation, audio_root = _test_set(task, recipe, annotation, audio_root)
    rows = read_annotation(annotation, default_task=FAMILY_TASK.get(task or ""))[:limit]
    _ask_all(rows, recipe)
    problems = missing_files(rows, audio_root)
    if problems:
        raise DataError(f"{annotation}, audio under {audio_root}:\n{listing(problems)}")
    out = out or Path("submissions") / f"{recipe.name}-{task or 'all'}.csv"
    check_writable(out)
    model = load(recipe, pick_device(device))
    started = time.monotonic()
    with progress() as bar:
        shown = bar.add_task("infer", total=len(rows), detail="")
        texts = predict(model, rows, audio_root, workers=workers, on_batch=lambda count: bar.advance(shown, count))
    seconds = time.monotonic() - started
    empty = [row_id(row) for row, text in zip(rows, texts, strict=True) if not text.strip()]
    if empty:
        warn(f"{len(empty)} rows got an empty text, which the organisers reject: {', '.join(empty[:10])}")
    write_submission(out, [(row_id(row), text) for row, text in zip(rows, texts, strict=True)])
    return {"rows": len(rows), "seconds": f"{seconds:.1f}", "clips/s": f"{len(rows) / seconds:.1f}", "csv": str(out)}


def load(recipe: Recipe, device: str) -> AudioLM:
    """Build the model and say what it runs on."""
    model = build(recipe, device)
    kernel = model.decoder.kernel
    note = "" if kernel == "none" else f", 4-bit GPTQ decoder on the {kernel} kernel"
    say(f"recipe {recipe.name} on {device}{note}")
    return model


def run_quantize(recipe: Recipe, out: Path, bits: int, group_size: int, clips: int) -> list[list[str]]:
    """The recipe's full-precision checkpoint to one with a GPTQ decoder; returns the table of layers."""
    from nota_cli.compress.gptq import quantize_to_folder

    if not recipe.data.train:
        raise RecipeError("calibration needs audio: name a recipe with training data by --recipe")
    check_writable(out / "recipe.yaml")
    model = build(recipe)
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
    model.recipe = recipe.model_copy(update={"decoder": decoder})
    save_checkpoint(model, out)
    return [[layer.name, f"{layer.rounding_error:.4f}", f"{layer.error:.4f}"] for layer in report.layers]


def _test_set(task: str | None, recipe: Recipe, annotation: Path | None, audio_root: Path | None) -> tuple[Path, Path]:
    source = recipe.data.test.get(task or "")
    if annotation is None:
        if source is None:
            there = ", ".join(recipe.data.test) or "none"
            raise UsageError(
                f"recipe {recipe.name!r} has no test set for task {task!r} (there: {there}); give --annotation FILE"
            )
        annotation = Path(source.annotation)
        audio_root = audio_root or Path(source.audio_root)
    return annotation, audio_root or annotation.parent


def _ask_all(rows: Sequence[Row], recipe: Recipe) -> None:
    """Every row's task needs a prompt; better known before the model is loaded."""
    lacking = sorted({row.task for row in rows} - set(recipe.prompts.tasks))
    if lacking:
        raise RecipeError(f"recipe {recipe.name!r} has no prompt for {', '.join(lacking)}; add it under prompts.tasks")


def run_prepare_tokenizer(recipe_name: str, out: Path) -> int:
    """A tokenizer folder over every word that the recipe's prompts and training texts use; returns their number."""
    from nota_cli.data.tokenizer import build_word_tokenizer

    recipe = load_recipe(recipe_name)
    texts = [part for task in recipe.prompts.tasks for part in wrap(recipe.prompts, Query(task, "what is it"))]
    for source in recipe.data.train:
        for row in read_annotation(Path(source.annotation)):
            texts += [row.text or "", *row.texts]
    return len(build_word_tokenizer(texts, out))
